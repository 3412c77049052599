"""`losswire bench`: a load on any server, checked for right answers and timed call by call."""
