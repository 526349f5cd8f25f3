"""From a network to label maps, scores, times, and how sure a difference is."""
