"""What a sweep needs, loaded and checked before anything starts."""
