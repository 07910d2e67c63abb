def restrict_layers(net, low, high, limit):
    return None
