"""Steering: a vector added to the residual stream of a policy, so that it writes what a reward prefers."""
