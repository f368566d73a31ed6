# The commands for this repository; `make` without a target lists them.
#   PROFILE=fast       cargo's profile: release (the default), fast, dev
#   CARGO_TARGET_DIR   honoured, as by cargo itself
#   GLIBC=             the oldest glibc on which optimized programs run (default: 2.28; zig links them);
#                      empty: that of this machine, without zig
#   TARGET_TRIPLE=     another machine's triple, such as aarch64-unknown-linux-gnu, for `make optimized dist`: zig
#                      links its programs, and they have no profile (rustup target add, first)
# Packages and benchmarks use `make optimized` (profile-guided); `make build` compiles faster.
SHELL := /bin/bash
PROFILE ?= release
GLIBC ?= 2.28
TARGET := $(or $(CARGO_TARGET_DIR),target)
BUILD_DIR ?= $(TARGET)/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))
TARGET_TRIPLE ?=
export TARGET_TRIPLE
FOREIGN := $(if $(TARGET_TRIPLE),-$(TARGET_TRIPLE))
ifneq ($(FOREIGN),)
ifneq ($(PROFILE),release)
$(error TARGET_TRIPLE needs PROFILE=release: only `make optimized` builds for another machine)
endif
endif
OPTIMIZED_DIR := $(TARGET)/optimized$(FOREIGN)
# With a PROFILE other than release, packages and benchmarks use that build.
SHIPPED := $(if $(filter release,$(PROFILE)),optimized,build)
SHIPPED_DIR := $(if $(filter release,$(PROFILE)),$(OPTIMIZED_DIR),$(BUILD_DIR))
DIST := $(TARGET)/dist$(FOREIGN)
COPYRIGHT := $(TARGET)/copyright$(FOREIGN)
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)

DESTDIR ?=
PREFIX ?= /usr/local
SYSCONFDIR ?= /etc

# For `make demo`: an application instead of the Django project of the repository.
APP ?=
DIR ?= .
PYTHON ?=
BIND ?= 127.0.0.1:8000

# Arguments of `make chaos`, see tests/chaos/run --help.
CHAOS ?=

.DEFAULT_GOAL := help
.PHONY: help build optimized demo unit test bench performance chaos dist wheel sdist deb rpm print-deb install fmt lint

help: ## this list
	@sed -n 's/^\([a-z]*\): .*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20
	@echo
	@echo '  make demo APP=mysite.wsgi DIR=/srv/mysite PYTHON=/srv/mysite/.venv/bin/python'
	@echo '  make install DESTDIR=/tmp/stage PREFIX=/usr'

build: ## the daemon and the Python extension, in target/release
	cargo build --locked --profile $(PROFILE) --package rgun
	cargo build --locked --profile $(PROFILE) --package rgun-worker
	@# Renamed, not overwritten: a running worker has mapped the old file.
	@cp $(BUILD_DIR)/librgun_worker.so $(BUILD_DIR)/.rgun_worker.new
	@mv -f $(BUILD_DIR)/.rgun_worker.new $(BUILD_DIR)/rgun_worker.abi3.so
	@cp src/worker/main_module.py $(BUILD_DIR)/rgun_main.py

optimized: ## the same as packages have them, with profile-guided optimization, in target/optimized
	@packaging/pgo/build $(TARGET) $(OPTIMIZED_DIR) $(GLIBC)

demo: build ## serve a Django project, or your own application, on 127.0.0.1:8000
	@packaging/demo $(BUILD_DIR)/rgun $(TARGET)/demo '$(BIND)' '$(APP)' '$(DIR)' '$(PYTHON)'

unit: ## at every save: unit tests, guards, ruff (seconds, once compiled)
	@tests/run unit

test: ## install what the tests need, then run every tier (tests/run --help)
	@tests/run all

bench: $(SHIPPED) ## compare with the fastest servers for Python, and with gunicorn and uvicorn
	@tests/bench/run --rgun $(SHIPPED_DIR)/rgun

# Exit code 1 of `run`: a server did not complete, as the page says.
performance: $(SHIPPED) ## measure again for packaging/doc/performance.md, and write it (20 minutes)
	@tests/bench/run --rgun $(SHIPPED_DIR)/rgun --page || test $$? = 1
	@tests/bench/page

chaos: deb ## kill, hang, leak and reload under load for minutes (CHAOS='--seconds 600 --seed 7')
	@tests/chaos/run --deb $$($(MAKE) --no-print-directory -s print-deb) $(CHAOS)

dist: wheel sdist deb rpm ## all packages, a tarball, checksums and a bill of materials in target/dist
	@cp $$($(MAKE) --no-print-directory -s print-deb) $(DIST)
	@packaging/dist $(VERSION) $(TARGET) $(SHIPPED_DIR) $(COPYRIGHT) $(DIST)

$(COPYRIGHT): packaging/crates packaging/deb/copyright Cargo.lock
	@mkdir -p $(TARGET) && packaging/crates copyright >$@.new && mv $@.new $@

# Programs of another profile run on this machine's C library, so their wheel is for this machine.
wheel: $(SHIPPED) $(COPYRIGHT) ## a Python wheel in target/dist, for `pip install`
	@packaging/wheel/build $(TARGET) $(SHIPPED_DIR) $(COPYRIGHT) $(DIST) $(if $(filter release,$(PROFILE)),$(GLIBC))

sdist: ## a Python source distribution in target/dist, which builds with cargo
	@rm -f $(DIST)/rgun-$(VERSION).tar.gz
	@$$(packaging/tools $(TARGET))/hatchling build --target sdist --directory $(DIST)

deb: $(SHIPPED) $(COPYRIGHT) ## a Debian package in target/
	@packaging/deb/build $(VERSION) $(TARGET) $(SHIPPED_DIR) $(COPYRIGHT)

rpm: $(SHIPPED) $(COPYRIGHT) ## an rpm in target/dist, for Fedora, RHEL 9 and their relatives
	@packaging/rpm/build $(VERSION) $(TARGET) $(SHIPPED_DIR) $(COPYRIGHT) $(DIST)

print-deb:
	@echo $(TARGET)/rgun_$(VERSION)_$$(packaging/machine debian).deb

# Builds nothing, so that `sudo make install` compiles nothing as root.
install: ## copy the built files below DESTDIR and PREFIX
	@for file in rgun rgun_worker.abi3.so rgun_main.py; do test -f $(BUILD_DIR)/$$file || \
	  { echo "install: no $(BUILD_DIR)/$$file; run \`make build\` or \`make optimized\` first" >&2; exit 1; }; done
	install -D -m755 $(BUILD_DIR)/rgun $(DESTDIR)$(PREFIX)/bin/rgun
	install -D -m644 $(BUILD_DIR)/rgun_worker.abi3.so $(DESTDIR)$(PREFIX)/lib/rgun/rgun_worker.abi3.so
	install -D -m644 $(BUILD_DIR)/rgun_main.py $(DESTDIR)$(PREFIX)/lib/rgun/rgun_main.py
	install -D -m644 packaging/welcome/welcome.py $(DESTDIR)$(PREFIX)/share/rgun/welcome/welcome.py
	install -D -m644 packaging/sysusers.d/rgun.conf $(DESTDIR)$(PREFIX)/lib/sysusers.d/rgun.conf
	install -D -m644 packaging/catalog/rgun.catalog $(DESTDIR)$(PREFIX)/lib/systemd/catalog/rgun.catalog
	install -D -m644 packaging/completions/rgun.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/rgun
	install -D -m644 packaging/completions/_rgun $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_rgun
	install -D -m644 packaging/completions/rgun.fish $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/rgun.fish
	install -D -m644 packaging/man/rgun.1 $(DESTDIR)$(PREFIX)/share/man/man1/rgun.1
	install -D -m644 packaging/man/rgun.8 $(DESTDIR)$(PREFIX)/share/man/man8/rgun.8
	install -D -m644 packaging/man/rgun.toml.5 $(DESTDIR)$(PREFIX)/share/man/man5/rgun.toml.5
	install -D -m644 packaging/man/rgun.units.7 $(DESTDIR)$(PREFIX)/share/man/man7/rgun.units.7
	install -D -m644 -t $(DESTDIR)$(PREFIX)/share/doc/rgun README.md CHANGELOG.md LICENSE packaging/doc/*
	install -D -m644 -t $(DESTDIR)$(PREFIX)/share/doc/rgun/examples \
	  $$(find packaging/examples -maxdepth 1 -type f)
	install -D -m644 -t $(DESTDIR)$(PREFIX)/share/doc/rgun/examples/dropins packaging/examples/dropins/*
	@# The installed README is in the directory of the guides that it links to.
	sed -i 's|](packaging/doc/|](|g; s|](packaging/examples/|](examples/|g' $(DESTDIR)$(PREFIX)/share/doc/rgun/README.md
	install -D -m644 -t $(DESTDIR)$(PREFIX)/lib/systemd/system systemd/rgun*
	install -D -m644 -t $(DESTDIR)$(PREFIX)/lib/systemd/system-preset systemd/80-rgun.preset
	@# The units and the configuration name paths below /usr; replace them by the prefix.
	sed -i -e 's|=/usr/bin/rgun|=$(PREFIX)/bin/rgun|' -e 's|/usr/share/doc/rgun|$(PREFIX)/share/doc/rgun|' \
	  $(DESTDIR)$(PREFIX)/lib/systemd/system/rgun.service $(DESTDIR)$(PREFIX)/lib/systemd/system/rgun@.service
	@if test -e $(DESTDIR)$(SYSCONFDIR)/rgun/rgun.toml; then \
	  echo 'keeping $(DESTDIR)$(SYSCONFDIR)/rgun/rgun.toml'; \
	else \
	  install -D -m644 packaging/etc/rgun.toml $(DESTDIR)$(SYSCONFDIR)/rgun/rgun.toml; \
	  sed -i 's|/usr/share/rgun|$(PREFIX)/share/rgun|' $(DESTDIR)$(SYSCONFDIR)/rgun/rgun.toml; \
	fi

fmt: ## format Rust and Python
	cargo fmt --all
	@tests/run format

lint: ## clippy, rustdoc and ruff, all warnings denied
	@tests/run lint
