"""Local features: keypoints with a descriptor each."""
