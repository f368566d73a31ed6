"""The admin's view of the tables: lists, search and filters, so that its pages do real work."""

from django.contrib import admin

from catalog.models import Category, Product, Upload


@admin.register(Category)
class CategoryAdmin(admin.ModelAdmin):
    """Categories by name."""

    list_display = ["name", "slug"]
    prepopulated_fields = {"slug": ["name"]}


@admin.register(Product)
class ProductAdmin(admin.ModelAdmin):
    """Products with search, a filter and prices that can be edited in the list."""

    list_display = ["name", "category", "price", "stock", "created"]
    list_editable = ["price", "stock"]
    list_filter = ["category"]
    list_select_related = ["category"]
    search_fields = ["name", "description"]
    prepopulated_fields = {"slug": ["name"]}


@admin.register(Upload)
class UploadAdmin(admin.ModelAdmin):
    """Uploads, which can be viewed and deleted."""

    list_display = ["name", "size", "sha256", "received"]
    readonly_fields = ["file", "name", "size", "sha256", "received"]
