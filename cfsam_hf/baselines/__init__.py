"""Systems to stand beside: a classical method without weights, and a plain U-Net. Nothing else imports them."""
