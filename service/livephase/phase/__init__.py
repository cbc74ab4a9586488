"""Phase retrieval: networks, classical solvers, preprocessing and the model file."""
