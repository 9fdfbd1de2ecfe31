"""Settings of the small model, in the idiom of a Matterport fork."""


class Config:
    GPU_COUNT = 1
    IMAGES_PER_GPU = 2
    NUM_CLASSES = 3
    IMAGE_SHAPE = (16, 16, 3)
    IMAGE_META_SIZE = 5
    PROPOSALS = 6
    DETECTION_MAX_INSTANCES = 4
    LEARNING_RATE = 0.05
    LEARNING_MOMENTUM = 0.9
    WEIGHT_DECAY = 0.001
    GRADIENT_CLIP_NORM = 50.0
    LOSS_WEIGHTS = {"mrcnn_bbox_loss": 0.5}  # others 1
    TRAIN_BN = False

    def __init__(self, **settings):
        for name, value in settings.items():
            setattr(self, name, value)
        self.BATCH_SIZE = self.IMAGES_PER_GPU * self.GPU_COUNT
