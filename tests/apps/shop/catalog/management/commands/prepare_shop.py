"""`manage.py prepare_shop`: migrates, loads sample rows and creates the demo's admin user.

The shell script `prepare` calls it after creating the environment. A second run changes nothing.
"""

from decimal import Decimal

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.core.management.base import BaseCommand
from django.db import connection, transaction
from django.utils.text import slugify

from catalog.models import Category, Product

ADMIN_NAME = "admin"
ADMIN_PASSWORD = "shop-demo"

# Few rows; some names are not ASCII, to test their way from the database to the client.
SHELVES = {
    "Coffee": [
        "Espresso beans",
        "Filter beans",
        "Decaf beans",
        "Cold brew",
        "Café crème beans",
        "Chicory blend",
    ],
    "Tea": ["Assam", "Darjeeling first flush", "Sencha 煎茶", "Rooibos", "Peppermint", "Earl Grey"],
    "Kitchen": ["Moka pot", "Kettle", "Hand grinder", "Scale", "Crème brûlée torch", "Mug, 350 ml"],
    "Books": ["The Kernel, Annotated", "Queues in Practice", "A Short Course on Sockets", "Øl og brød"],
    "Garden": ["Trowel", "Watering can", "Seeds, basil", "Seeds, tomato", "Gloves", "Compost bin"],
}


class Command(BaseCommand):
    """Prepares the database of the shop."""

    help = "migrate, load the sample rows, create the admin user of the demo"

    def handle(self, *args, **options):
        """Performs each missing step."""
        call_command("migrate", verbosity=0, interactive=False)
        with connection.cursor() as cursor:
            # With WAL, workers can read while one writes. The database file stores the mode.
            cursor.execute("PRAGMA journal_mode=WAL")
        with transaction.atomic():
            if not Product.objects.exists():
                self.load_rows()
            users = get_user_model().objects
            if not users.filter(username=ADMIN_NAME).exists():
                users.create_superuser(ADMIN_NAME, "admin@example.com", ADMIN_PASSWORD)
        rows = Product.objects.count()
        self.stdout.write(f"database {settings.DATABASES['default']['NAME']}: {rows} products")
        self.stdout.write(
            f"admin user: {ADMIN_NAME}, password: {ADMIN_PASSWORD} (a demo's, known to everyone)"
        )

    def load_rows(self):
        """Loads the sample rows, the same on every machine."""
        for shelf, names in SHELVES.items():
            category = Category.objects.create(name=shelf, slug=slugify(shelf))
            for index, name in enumerate(names):
                Product.objects.create(
                    category=category,
                    name=name,
                    slug=slugify(name),
                    description=f"{name}, from the shelf {shelf}.",
                    price=Decimal("3.90") + Decimal("2.35") * index,
                    stock=(index * 7) % 23,
                )
