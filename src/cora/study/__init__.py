"""A study of whether classification or localization limits a detector.

The true class is given, the boxes are measured.
"""
