"""Everyday names: common nouns that serve as distractors.

If a user gives only a few class names, other objects in the image would get one of them. A distractor competes for such
objects and is never reported.
"""

EVERYDAY_NAMES = (
    "person", "hand", "face", "hair", "shirt", "trousers", "shoe", "hat", "glasses", "bag",
    "car", "truck", "bus", "train", "bicycle", "motorcycle", "boat", "airplane", "wheel", "road",
    "dog", "cat", "bird", "horse", "cow", "sheep", "elephant", "bear", "fish", "insect",
    "chair", "table", "bed", "couch", "lamp", "cupboard", "shelf", "door", "window", "curtain",
    "cup", "bottle", "bowl", "plate", "fork", "knife", "spoon", "pan", "glass", "box",
    "bread", "cake", "fruit", "vegetable", "meat", "pizza", "sandwich", "cheese", "salad", "soup",
    "laptop", "television", "telephone", "keyboard", "computer mouse", "remote control", "camera", "clock", "book",
    "paper", "pen", "scissors", "umbrella", "ball", "toy", "tool", "vase", "flower", "tree", "grass", "sky", "water",
    "mountain", "wall", "floor", "ceiling", "house", "fence", "street sign", "traffic light", "pole", "stone",
    "refrigerator", "oven", "sink", "toilet", "mirror", "towel", "blanket", "pillow",
)  # fmt: skip
