"""Django with Channels: the routes that each framework of these tests has, and what only Django has."""
