"""How flat the loss is around a network's weights: pure computations on networks; never imports the trainer."""
