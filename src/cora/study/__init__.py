"""Is a detector limited by classification or by localization? The class is given away, the boxes are measured."""
