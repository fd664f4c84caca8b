"""The in-cluster autoregistration controller."""
