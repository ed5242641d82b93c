"""PSNR in dB of the published corruptions, severities 1 to 5, as measured by the programs that made the data sets.

Source: the functions of `make_cifar_c.py` (32 pixels), `make_tinyimagenet_c.py` (64) and `make_imagenet_c.py` (224) in
`ImageNet-C/create_c` of github.com/hendrycks/robustness at commit 8190fe3, with numpy 1.26.4, scikit-image 0.26.0,
opencv-python-headless 4.11.0.86, scipy 1.15.3 and Pillow 13.0.0. In place of ImageMagick's motion blur: the function
`_motion_blur` of imagecorruptions 1.1.2 (PyPI), which takes the same pixels. At 224 pixels the functions of that
package were used where they are those of `make_imagenet_c.py`. That holds for all but `elastic_transform`, which is
another one there (23.70, 22.31, 21.03, 20.39, 19.65 dB); what counts here is the one that made ImageNet-C.

Made by: for each image of `tiles` (`test_shift_severities.py`) `numpy.uint8(FUNCTION(PIL.Image.fromarray(image), s))`
after `numpy.random.seed(s)`; where chance decides 8 to 60 times. A number is `10 log10(255² / mean squared error)`,
the mean taken over images and repetitions. The programs need OpenCV and scikit-image, which are not installed here.
"""

PSNR = {
    32: {
        "gaussian_noise": (28.4, 25.0, 22.64, 21.66, 20.8),
        "shot_noise": (31.23, 28.37, 24.6, 23.43, 21.79),
        "impulse_noise": (24.41, 21.37, 19.65, 17.42, 15.94),
        "defocus_blur": (45.22, 37.94, 34.43, 32.07, 29.16),
        "glass_blur": (25.78, 25.87, 26.61, 22.83, 23.41),
        "motion_blur": (31.34, 28.23, 26.32, 26.24, 25.08),
        "zoom_blur": (29.34, 27.63, 26.18, 24.93, 23.97),
        "snow": (25.98, 20.03, 18.77, 16.12, 13.5),
        "frost": (18.21, 14.83, 13.3, 13.65, 13.31),
        "fog": (24.48, 18.81, 16.63, 15.32, 13.87),
        "brightness": (28.7, 22.66, 19.3, 16.97, 13.8),
        "contrast": (28.95, 22.95, 21.36, 20.03, 18.34),
        "elastic_transform": (21.17, 21.87, 22.82, 23.45, 25.14),
        "pixelate": (36.78, 34.05, 32.78, 30.94, 29.54),
        "jpeg_compression": (32.46, 30.94, 30.46, 30.01, 29.43),
        "speckle_noise": (30.72, 26.58, 25.13, 22.81, 21.05),
        "gaussian_blur": (45.58, 34.78, 32.73, 31.35, 29.45),
        "spatter": (30.37, 26.2, 22.85, 22.99, 20.65),
        "saturate": (18.89, 16.69, 24.77, 19.23, 16.63),
    },
    64: {
        "gaussian_noise": (28.39, 22.63, 19.36, 17.61, 16.21),
        "shot_noise": (28.37, 24.57, 21.8, 19.75, 17.0),
        "impulse_noise": (24.49, 21.36, 17.35, 15.32, 12.89),
        "defocus_blur": (34.66, 32.33, 29.4, 26.37, 25.45),
        "glass_blur": (25.37, 26.95, 24.08, 24.66, 22.58),
        "motion_blur": (31.14, 28.12, 26.37, 24.99, 24.04),
        "zoom_blur": (27.59, 25.19, 23.91, 22.79, 21.96),
        "snow": (17.12, 16.13, 13.2, 11.44, 10.52),
        "frost": (15.1, 13.17, 13.09, 12.01, 11.67),
        "fog": (19.32, 16.44, 14.58, 13.01, 12.09),
        "brightness": (22.66, 16.97, 13.8, 11.51, 9.78),
        "contrast": (18.04, 16.7, 15.54, 14.52, 14.05),
        "elastic_transform": (18.51, 19.68, 19.79, 22.91, 23.19),
        "pixelate": (34.13, 32.08, 29.96, 28.98, 28.1),
        "jpeg_compression": (30.98, 30.5, 30.05, 29.47, 28.22),
        "speckle_noise": (23.35, 21.05, 19.28, 17.82, 16.6),
        "gaussian_blur": (38.32, 31.89, 29.35, 27.76, 26.64),
        "spatter": (30.47, 25.45, 22.08, 20.39, 18.91),
        "saturate": (18.89, 16.69, 20.96, 14.53, 11.06),
    },
    224: {
        "gaussian_noise": (22.5, 19.23, 16.1, 13.37, 10.8),
        "shot_noise": (22.27, 18.8, 15.93, 12.62, 10.75),
        "impulse_noise": (19.74, 16.71, 14.95, 12.2, 10.19),
        "defocus_blur": (25.41, 24.07, 22.37, 21.46, 20.73),
        "glass_blur": (24.03, 24.26, 20.89, 21.41, 20.88),
        "motion_blur": (24.02, 22.13, 20.3, 18.91, 18.08),
        "zoom_blur": (20.91, 19.69, 19.07, 18.32, 17.75),
        "snow": (15.42, 11.41, 11.26, 9.53, 8.44),
        "frost": (12.61, 10.06, 9.21, 9.34, 8.9),
        "fog": (13.12, 12.26, 11.45, 11.6, 11.1),
        "brightness": (22.59, 17.03, 13.93, 11.69, 10.0),
        "contrast": (15.38, 14.04, 12.88, 11.85, 11.39),
        "elastic_transform": (14.12, 11.71, 19.39, 19.4, 18.67),
        "pixelate": (28.76, 27.87, 26.12, 24.54, 23.94),
        "jpeg_compression": (28.24, 27.32, 26.79, 25.49, 24.37),
        "speckle_noise": (23.13, 20.87, 16.51, 14.64, 12.78),
        "gaussian_blur": (28.96, 24.9, 23.15, 22.1, 20.8),
        "spatter": (32.71, 24.48, 22.35, 18.22, 16.06),
        "saturate": (17.68, 15.48, 19.47, 13.43, 11.51),
    },
}
