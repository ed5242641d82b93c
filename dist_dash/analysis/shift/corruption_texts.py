"""What each corruption does, in one line; without numpy, so that `--help` can show it at once."""

TEXTS = {
    "gaussian_noise": "adds normal noise of 4 to 26 % of the range to every value",
    "shot_noise": "counts few events, 200 to 7 of them for the largest value",
    "impulse_noise": "sets 2 to 27 % of the values to the smallest or the largest",
    "speckle_noise": "multiplies every value by 1 + normal noise of 10 to 60 %",
    "defocus_blur": "spreads every pixel over a disc, as a lens out of focus does",
    "gaussian_blur": "spreads every pixel by a Gaussian",
    "motion_blur": "spreads every pixel along a line of random direction, as a moving camera does",
    "zoom_blur": "averages it with itself magnified, by up to 10 % (severity 1) … 50 % (5)",
    "fog": "lays white fog of uneven thickness over it, 20 to 80 % where it is thickest",
    "brightness": "adds 10 to 50 % of the range to every value",
    "contrast": "keeps 70 to 12 % of every difference from the mean of the channel",
    "elastic_transform": "bends it by a smooth random field, by 2.5 to 10 % of the side",
    "pixelate": "shows it by fewer, larger pixels, 80 to 30 % of the side",
    "jpeg": "stores it as JPEG of quality 60 to 7 of 100",
}
