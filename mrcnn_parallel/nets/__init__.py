"""What has weights: the ResNet backbone, the pyramid, the RPN and the heads.

Layer names are Matterport's, since weight files and `set_trainable` patterns go by them.
"""
