"""What a published attack does with a protected model, played through from end to end."""
