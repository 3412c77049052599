"""The contract between losswire's clients and servers.

`v1` holds the .proto files and the code generated from them. Beside it stands what both sides
must agree on to the letter: dtypes, tensors on the wire, and the rules that a request obeys, so
that a bad request is refused in the same words by the client and by the server.

Nothing here knows of channels, clients or servers.
"""

__version__ = "0.1.0"
