"""Pictures of what a backbone looks at."""
