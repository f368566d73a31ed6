"""The shop's URLs; the front page lists the same ones."""

from django.contrib import admin
from django.urls import path

from catalog import views

urlpatterns = [
    path("", views.home, name="home"),
    path("products/<slug:slug>", views.product, name="product"),
    path("api/status", views.api_status, name="api-status"),
    path("api/products", views.api_products, name="api-products"),
    path("upload", views.upload, name="upload"),
    path("upload/raw", views.upload_raw, name="upload-raw"),
    path("download/<int:mib>", views.download, name="download"),
    path("stream", views.stream, name="stream"),
    path("slow", views.slow, name="slow"),
    path("error", views.error, name="error"),
    path("meta", views.meta, name="meta"),
    path("admin/", admin.site.urls),
]
