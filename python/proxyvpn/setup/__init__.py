"""`proxyvpn setup`: once, as root, so that no later command needs to be.

    contents   which files, with which modes; the closure of what the helper imports     pure
    units      the text of the systemd units                                             pure
    check      what is wrong with an installation, and how to mend it, from facts        pure
    sources    reads what is to be copied, out of this Python
    facts      looks at an installation
    install    writes it, replaces it, takes it away
    programs   groupadd, groupdel, systemctl, the system's Python

What is copied is root's alone from then on. It comes out of the Python that runs this, so whoever can change that one
before `sudo proxyvpn setup` decides what root installs, as with any program run by sudo.
"""
