"""Plain data: Schema, Blueprint, Recipe; seeds and orders."""
