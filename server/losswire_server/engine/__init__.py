"""What computes: the protocol, the engines, and what they share.

request → weighting → tiles → softmax → weighting → result
"""
