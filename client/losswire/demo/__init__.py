"""`losswire demo`: handwritten digits, learnt by workers whose every loss comes over gRPC."""
