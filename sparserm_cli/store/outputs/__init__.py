"""Line files for other programs: scores, rankings, preference pairs, the score log."""
