"""Evaluation: box AP of base and novel classes, region accuracy, synonyms. It never computes losses."""
