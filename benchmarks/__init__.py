"""Speed, side by side with peers; never in tests."""
