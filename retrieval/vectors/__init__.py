"""What is learnt of vectors alone: centroids, principal axes, whitening."""
