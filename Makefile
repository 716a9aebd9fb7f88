# make demo   the product's main job, on a storage host of the lab
# make test   lint, types, unit, contract and lab tests
# make bench  the daemon measured next to bare configfs, rtslib, targetcli and Cinder's helper,
#             and attachd next to Cinder; BENCH="--only attachd" and the like for a part
# make soak   power cuts under load, CUTS=100 of them; SEED= repeats the load of a run
# make vagrant-test   the scenarios on virtual machines, made by Vagrant; SCENARIOS="-k power" for a part
# make qemu-test      the same without Vagrant
# make deb    build/targetd_VERSION_ARCH.deb and build/attachd_VERSION_ARCH.deb
# make install [DESTDIR=] [PREFIX=/opt/targetd]   without a package; make uninstall
# make install-attachd [DESTDIR=] [PREFIX=/opt/attachd]   the same of attachd; make uninstall-attachd
# All install what is missing: Debian packages (as root), a virtual environment in build/venv.

VENV := build/venv
DESTDIR :=
PREFIX := /opt/targetd
BINDIR := /usr/local/bin
CUTS := 100
PYTHON := $(VENV)/bin/python
export PYTHONPATH := .:drivers
CODE := targetd attachd drivers lab tests package vagrant/run-qemu

# The slowest first, so that none is left over at the end.
LAB_PARTS := lab-attachd lab-guides lab-others lab-service lab-contract lab-crashes lab-bench
PARTS := unit contract $(LAB_PARTS) attachd
.PHONY: demo test soak lint types stubs stubs-check lab-test $(PARTS) bench format lock packages deb install uninstall \
    install-attachd uninstall-attachd clean help

help:
	@sed -n 's/^# //p' Makefile

demo: packages $(VENV)/ready
	@$(PYTHON) -m lab.demo

# So many parts at once. Those of the lab have labs of their own, whose storage hosts want a
# processor each.
AT_ONCE := $(shell [ "$$(nproc)" -gt 3 ] && echo 3 || echo 2)

test: packages $(VENV)/ready
	@$(MAKE) --no-print-directory --jobs=$(AT_ONCE) lint types $(PARTS)

lab-test: packages $(VENV)/ready
	@$(MAKE) --no-print-directory --jobs=$(AT_ONCE) $(LAB_PARTS)

soak: packages $(VENV)/ready
	@$(PYTHON) -m lab.soak --cuts $(CUTS) $(if $(SEED),--seed $(SEED))

packages:
	@lab/packages.sh

$(VENV)/ready: requirements.txt
	@echo "Making the virtual environment $(VENV) ..."
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11) and "targetd needs Python 3.11 or newer")'
	@python3 -m venv $(VENV)
	@$(PYTHON) -m pip install --cache-dir build/pip --progress-bar off --disable-pip-version-check \
	    --require-hashes -r requirements.txt
	@touch $@

lint: $(VENV)/ready
	$(VENV)/bin/ruff check $(CODE)
	$(VENV)/bin/ruff format --check $(CODE)

types: $(VENV)/ready stubs-check
	$(VENV)/bin/mypy targetd attachd drivers/targetd_driver drivers/targetd_local lab tests package
	$(VENV)/bin/mypy --scripts-are-modules vagrant/run-qemu

stubs-check: $(VENV)/ready
	$(PYTHON) -m targetd.api.generate --check

build/promtool: lab/promtool.sh
	@lab/promtool.sh

# Not at once: both may have to ask apt-get for what there is.
build/initiator: lab/initiator.sh | build/promtool
	@lab/initiator.sh

# The field's own clients.
build/clients/ready: requirements-clients.txt
	@python3 -m venv build/clients
	@build/clients/bin/python -m pip install --cache-dir build/pip --progress-bar off \
	    --disable-pip-version-check --require-hashes -r requirements-clients.txt
	@touch $@

build/brick/ready: requirements-brick.txt build/clients/ready
	@rm -rf build/brick
	@build/clients/bin/python -m pip install --cache-dir build/pip --progress-bar off \
	    --disable-pip-version-check --require-hashes --no-deps --target build/brick -r requirements-brick.txt
	@touch $@

# Each tells how far it is, in whole lines that say whose they are.
$(PARTS): export PYTHONUNBUFFERED := 1
$(PARTS): SHELL := bash
$(PARTS): .SHELLFLAGS := -o pipefail -c
TELL = 2>&1 | (trap '' INT; exec sed --unbuffered 's/^/$@: /')

unit: $(VENV)/ready build/promtool
	$(PYTHON) -m pytest tests/unit tests/lab -m "not lab" $(TELL)

contract: $(VENV)/ready
	$(PYTHON) -m pytest tests/contract -m "not lab" $(TELL)

attachd: $(VENV)/ready build/clients/ready
	$(PYTHON) -m pytest tests/attachd $(TELL)

$(LAB_PARTS): $(VENV)/ready build/initiator build/clients/ready build/brick/ready

LAB = $(PYTHON) -m pytest -m lab --verbose --durations=5

lab-contract:
	$(LAB) tests/contract $(TELL)

lab-attachd := attachd attachd_package local_attach
lab-guides := attachd_docs operator_docs
lab-service := package readme service
lab-crashes := daemon power_cuts lost_writes
lab-bench := bench

lab-attachd lab-guides lab-service lab-crashes lab-bench:
	$(LAB) $($@:%=tests/lab/test_%.py) $(TELL)

ELSEWHERE := $(foreach part,$(LAB_PARTS),$($(part)))

lab-others:
	$(LAB) tests/lab $(ELSEWHERE:%=--ignore=tests/lab/test_%.py) $(TELL)

bench: packages $(VENV)/ready
	@$(PYTHON) -m lab.bench $(BENCH)

PRINT_VERSION := sed -n 's/^__version__ = "\(.*\)"$$/\1/p' targetd/__init__.py
PACKAGED := $(shell find targetd attachd drivers systemd package -type f -not -name '*.pyc') \
    docs/lunctl.1 README.md CHANGELOG.md LICENSE pyproject.toml requirements.txt

# Of this version and of a later one, for tests that upgrade from one to the other. As old as what
# they were made of, and whole whenever somebody takes them.
LATER := 99.0
build/packages/targetd build/packages/attachd: $(PACKAGED)
	@echo "Making the package of $(@F), and a later one to upgrade to ..."
	@rm -rf $@.new && mkdir -p $@.new
	@touch $@.begun
	@package/deb.sh $@.new $(@F) "$$($(PRINT_VERSION))" $(LATER) > $@.log 2>&1 || { cat $@.log >&2; exit 1; }
	@mv $@.new/*.deb $(@D) && rmdir $@.new
	@mv $@.begun $@

# The virtual machines: what they are made of, and the scenarios on them.
.PHONY: qemu-packages qemu-test vagrant-packages vagrant-test
VIRTUAL := build/vagrant

qemu-packages vagrant-packages:
	@vagrant/packages.sh $(@:-packages=)

qemu-test vagrant-test: %-test: %-packages $(VENV)/ready $(VIRTUAL)/targetd.box $(VIRTUAL)/targetd.deb
	@vagrant/test $* $(SCENARIOS)

$(VIRTUAL)/targetd.box: $(wildcard vagrant/box/*)
	@vagrant/box/build $(VIRTUAL)

$(VIRTUAL)/targetd.deb: build/packages/targetd
	@mkdir -p $(VIRTUAL)
	@cp build/packages/targetd_$(LATER)_*.deb $(VIRTUAL)/targetd-later.deb
	@cp build/packages/targetd_$$($(PRINT_VERSION))_*.deb $@

deb:
	@package/deb.sh build targetd $(VERSION)
	@package/deb.sh build attachd $(VERSION)

install:
	@package/tree.sh targetd "$(DESTDIR)" $(PREFIX) $(BINDIR)
	@"$(DESTDIR)$(PREFIX)/bin/python3" -I -m targetd.install --root "$(or $(DESTDIR),/)" --bin $(BINDIR)
	@echo "Next: systemctl enable --now targetd"

uninstall:
	@"$(DESTDIR)$(PREFIX)/bin/python3" -I -m targetd.install --root "$(or $(DESTDIR),/)" --remove
	@rm -rf "$(DESTDIR)$(PREFIX)" "$(DESTDIR)$(BINDIR)/targetd" "$(DESTDIR)$(BINDIR)/lunctl"

install-attachd uninstall-attachd: PREFIX := /opt/attachd
INSTALL_ATTACHD = "$(DESTDIR)$(PREFIX)/bin/python3" -I -m targetd.install --attachd \
    --root "$(or $(DESTDIR),/)"

install-attachd:
	@package/tree.sh attachd "$(DESTDIR)" $(PREFIX) $(BINDIR)
	@$(INSTALL_ATTACHD) --bin $(BINDIR)
	@echo "Next: systemctl enable --now attachd"

uninstall-attachd:
	@$(INSTALL_ATTACHD) --remove
	@rm -rf "$(DESTDIR)$(PREFIX)" "$(DESTDIR)$(BINDIR)/attachd"

stubs: $(VENV)/ready
	$(PYTHON) -m targetd.api.generate

.PHONY: manual
manual: $(VENV)/ready
	$(PYTHON) -m targetd.lunctl.manual

format: $(VENV)/ready
	$(VENV)/bin/ruff check --fix $(CODE)
	$(VENV)/bin/ruff format $(CODE)

# Exact versions with hashes, without the address of any registry.
lock:
	pip-compile --quiet --generate-hashes --no-header --no-emit-index-url --no-emit-find-links \
	    --no-emit-trusted-host --strip-extras --allow-unsafe --extra attachd --extra dev \
	    -o requirements.txt pyproject.toml

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache *.egg-info
