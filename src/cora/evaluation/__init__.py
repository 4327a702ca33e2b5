"""What a detector is worth: box AP of base and novel classes, region accuracy, synonyms; losses are never
computed here.
"""
