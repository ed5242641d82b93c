"""What each corruption does, in one line; without numpy, so that `--help` can show it at once."""

TEXTS = {
    "gaussian_noise": "adds normal noise to every value",
    "shot_noise": "counts few events: noise of dim light",
    "impulse_noise": "sets some values to the smallest or the largest",
    "defocus_blur": "spreads every pixel over a disc, as a lens out of focus does",
    "glass_blur": "takes pixels from near by, as frosted glass does",
    "motion_blur": "spreads every pixel along a line, as a moving camera does",
    "zoom_blur": "averages it with itself magnified, as a camera does that approaches",
    "snow": "whitens it and lets flakes fall",
    "frost": "lays ice over it (made by chance, not the published photographs)",
    "fog": "lays bright fog of uneven thickness over it",
    "brightness": "adds light",
    "contrast": "weakens every difference from the mean of the channel",
    "elastic_transform": "bends it as a whole and locally",
    "pixelate": "shows it by fewer, larger pixels",
    "jpeg_compression": "stores it as JPEG of low quality",
    "speckle_noise": "multiplies every value by 1 + normal noise",
    "gaussian_blur": "spreads every pixel by a Gaussian",
    "spatter": "drops of water (severities 1 to 3) or mud (4 and 5) on the lens",
    "saturate": "weakens or strengthens its colours; of images with three channels",
}
COMMON = tuple(TEXTS)[:15]
"""Those that mean corruption errors are of; the others are for development (Hendrycks & Dietterich 2019)."""
