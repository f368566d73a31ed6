"""Tests of the shop itself on this version of Django: `manage.py test`.

They run in one process with Django's test client, without a server.
"""

import hashlib
import io
import tempfile
from pathlib import Path

from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import call_command
from django.test import TestCase, override_settings

from catalog.management.commands.prepare_shop import ADMIN_NAME, ADMIN_PASSWORD
from catalog.models import Product, Upload
from catalog.views import DemoError


class ShopTests(TestCase):
    """Calls each view with the sample rows and a temporary data directory."""

    @classmethod
    def setUpTestData(cls):
        """Loads the rows and the user that `prepare` loads."""
        call_command("prepare_shop", verbosity=0, stdout=io.StringIO())

    def setUp(self):
        """Uses a temporary directory for uploads and files."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.data = Path(folder.name)
        settings = override_settings(
            DATA_DIR=self.data, MEDIA_ROOT=self.data / "media", FILE_UPLOAD_TEMP_DIR=self.data
        )
        settings.enable()
        self.addCleanup(settings.disable)

    def test_front_page_lists_every_product(self):
        """Including those whose names are not ASCII."""
        page = self.client.get("/").content.decode()
        for product in Product.objects.all():
            self.assertIn(product.get_absolute_url(), page)
        self.assertIn("煎茶", page)

    def test_products_are_found_by_category_and_word(self):
        """Products in stock are returned with the name of their category."""
        rows = self.client.get("/api/products?category=tea&q=sencha").json()["products"]
        self.assertEqual([row["category"] for row in rows], ["Tea"])
        self.assertEqual(len(self.client.get("/api/products").json()["products"]), 20)
        self.assertEqual(self.client.get("/api/products?page=x").status_code, 400)

    def test_an_uploaded_file_is_stored_and_reported(self):
        """A form and a raw body store the same bytes."""
        body = bytes(range(256)) * 1000
        digest = hashlib.sha256(body).hexdigest()
        form = self.client.post("/upload", {"file": SimpleUploadedFile("a.bin", body)}).json()["files"][0]
        raw = self.client.put("/upload/raw?name=b.bin", body, content_type="application/octet-stream").json()
        for answer, name in ((form, "a.bin"), (raw, "b.bin")):
            self.assertEqual((answer["name"], answer["size"], answer["sha256"]), (name, len(body), digest))
            self.assertEqual(Path(Upload.objects.get(pk=answer["id"]).file.path).read_bytes(), body)
        self.assertEqual(self.client.post("/upload", {}).status_code, 400)

    def test_download_has_the_requested_size_and_is_cached(self):
        """The second response comes from the same file."""
        first = b"".join(self.client.get("/download/2").streaming_content)
        made = (self.data / "files" / "2.bin").stat().st_mtime_ns
        self.assertEqual(b"".join(self.client.get("/download/2").streaming_content), first)
        self.assertEqual((self.data / "files" / "2.bin").stat().st_mtime_ns, made)
        self.assertEqual(len(first), 2 * 1024 * 1024)
        self.assertEqual(self.client.get("/download/5000").status_code, 404)

    def test_stream_has_the_requested_chunks(self):
        """Each chunk has the requested size."""
        chunks = list(self.client.get("/stream?n=3&size=20").streaming_content)
        self.assertEqual([len(chunk) for chunk in chunks], [20, 20, 20])
        self.assertEqual(self.client.get("/stream?n=-1").status_code, 400)

    def test_the_failing_view_raises(self):
        """It raises DemoError."""
        with self.assertRaises(DemoError):
            self.client.get("/error")

    def test_the_request_is_shown_with_secrets_masked(self):
        """Host, scheme and path are those that Django computes."""
        seen = self.client.get("/meta?x=1", HTTP_HOST="localhost", HTTP_AUTHORIZATION="Basic c2VjcmV0").json()
        self.assertEqual(
            (seen["host"], seen["scheme"], seen["full_path"]), ("localhost", "http", "/meta?x=1")
        )
        self.assertNotIn("c2VjcmV0", str(seen))

    def test_the_admin_logs_in_and_lists_the_products(self):
        """The password is the one that `prepare` prints."""
        answer = self.client.post(
            "/admin/login/?next=/admin/catalog/product/", {"username": ADMIN_NAME, "password": ADMIN_PASSWORD}
        )
        self.assertRedirects(answer, "/admin/catalog/product/")
        for model in ("product", "category", "upload"):
            self.assertEqual(self.client.get(f"/admin/catalog/{model}/").status_code, 200)

    def test_slow_view_waits_and_reports_the_time(self):
        """It sleeps for a tenth of a second."""
        self.assertEqual(self.client.get("/slow?s=0.1").json()["slept"], 0.1)
