"""Says what pip-audit found, from its JSON on standard input, and of how many packages nothing could be learned."""

import json
import sys


def main(report: dict) -> int:
    """Print every known vulnerability and what could not be audited; return 1 if there is one."""
    packages = report["dependencies"]
    unknown = [one for one in packages if "skip_reason" in one]
    faulty = [(one, fault) for one in packages for fault in one.get("vulns", ())]
    for one, fault in faulty:
        fixed = ", ".join(fault["fix_versions"]) or "no release yet"
        print(f"{one['name']} {one['version']}: {fault['id']}, mended in {fixed}")
    print(f"audit: {len(packages) - len(unknown)} of {len(packages)} packages audited, {len(faulty)} vulnerabilities")
    if unknown:
        print(f"audit: WARNING: this index has no vulnerability data for {len(unknown)}, which says nothing of them")
    return 1 if faulty else 0


if __name__ == "__main__":
    sys.exit(main(json.load(sys.stdin)))
