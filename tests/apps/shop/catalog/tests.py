"""The shop itself works on this Django, before any server is blamed: `manage.py test`.

In process, by Django's test client. What a server does with the shop is tested elsewhere.
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
    """Each view once, on the sample rows, with a data directory of its own."""

    @classmethod
    def setUpTestData(cls):
        """The same rows and user that `prepare` loads."""
        call_command("prepare_shop", verbosity=0, stdout=io.StringIO())

    def setUp(self):
        """Uploads and files go to a directory that is removed afterwards."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.data = Path(folder.name)
        settings = override_settings(
            DATA_DIR=self.data, MEDIA_ROOT=self.data / "media", FILE_UPLOAD_TEMP_DIR=self.data
        )
        settings.enable()
        self.addCleanup(settings.disable)

    def test_front_page_lists_every_product(self):
        """Also those whose names are not ASCII."""
        page = self.client.get("/").content.decode()
        for product in Product.objects.all():
            self.assertIn(product.get_absolute_url(), page)
        self.assertIn("煎茶", page)

    def test_products_are_found_by_category_and_word(self):
        """Only what is in stock, with its category's name."""
        rows = self.client.get("/api/products?category=tea&q=sencha").json()["products"]
        self.assertEqual([row["category"] for row in rows], ["Tea"])
        self.assertEqual(len(self.client.get("/api/products").json()["products"]), 20)
        self.assertEqual(self.client.get("/api/products?page=x").status_code, 400)

    def test_an_uploaded_file_is_stored_and_reported(self):
        """By form and as raw body, and both leave the same bytes on disk."""
        body = bytes(range(256)) * 1000
        digest = hashlib.sha256(body).hexdigest()
        form = self.client.post("/upload", {"file": SimpleUploadedFile("a.bin", body)}).json()["files"][0]
        raw = self.client.put("/upload/raw?name=b.bin", body, content_type="application/octet-stream").json()
        for answer, name in ((form, "a.bin"), (raw, "b.bin")):
            self.assertEqual((answer["name"], answer["size"], answer["sha256"]), (name, len(body), digest))
            self.assertEqual(Path(Upload.objects.get(pk=answer["id"]).file.path).read_bytes(), body)
        self.assertEqual(self.client.post("/upload", {}).status_code, 400)

    def test_a_download_has_the_size_asked_for_and_is_made_once(self):
        """The second answer comes from the same file."""
        first = b"".join(self.client.get("/download/2").streaming_content)
        made = (self.data / "files" / "2.bin").stat().st_mtime_ns
        self.assertEqual(b"".join(self.client.get("/download/2").streaming_content), first)
        self.assertEqual((self.data / "files" / "2.bin").stat().st_mtime_ns, made)
        self.assertEqual(len(first), 2 * 1024 * 1024)
        self.assertEqual(self.client.get("/download/5000").status_code, 404)

    def test_a_stream_comes_in_the_chunks_asked_for(self):
        """Each of the size asked for."""
        chunks = list(self.client.get("/stream?n=3&size=20").streaming_content)
        self.assertEqual([len(chunk) for chunk in chunks], [20, 20, 20])
        self.assertEqual(self.client.get("/stream?n=-1").status_code, 400)

    def test_the_failing_view_raises(self):
        """With an exception of its own name."""
        with self.assertRaises(DemoError):
            self.client.get("/error")

    def test_the_request_is_shown_with_secrets_masked(self):
        """Host, peer and scheme as Django sees them."""
        seen = self.client.get("/meta?x=1", HTTP_HOST="localhost", HTTP_AUTHORIZATION="Basic c2VjcmV0").json()
        self.assertEqual(
            (seen["host"], seen["scheme"], seen["full_path"]), ("localhost", "http", "/meta?x=1")
        )
        self.assertNotIn("c2VjcmV0", str(seen))

    def test_the_admin_logs_in_and_lists_the_products(self):
        """With the password that `prepare` prints, over a real session."""
        answer = self.client.post(
            "/admin/login/?next=/admin/catalog/product/", {"username": ADMIN_NAME, "password": ADMIN_PASSWORD}
        )
        self.assertRedirects(answer, "/admin/catalog/product/")
        for model in ("product", "category", "upload"):
            self.assertEqual(self.client.get(f"/admin/catalog/{model}/").status_code, 200)

    def test_slow_waits_and_says_so(self):
        """A tenth of a second is slow enough for a test."""
        self.assertEqual(self.client.get("/slow?s=0.1").json()["slept"], 0.1)
