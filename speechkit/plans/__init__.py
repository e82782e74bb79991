"""Plans: models as instructions, weights and rules, which run without torch."""
