"""Training of networks: simulated and measured data, the loop, figures."""
