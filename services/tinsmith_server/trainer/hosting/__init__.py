"""Models as clients see them: made, found, parked, released, and their calls in order."""
