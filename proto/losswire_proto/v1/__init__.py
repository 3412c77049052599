"""Generated from the .proto files beside this one by `make proto`; not to be edited."""
