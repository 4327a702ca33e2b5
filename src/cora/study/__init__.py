"""A study of whether classification or localization limits a detector: the true class is given, the boxes are
measured."""
