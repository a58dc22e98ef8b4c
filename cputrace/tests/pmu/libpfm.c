/* Prints what libpfm knows of AMD's events: PMU, event code, and each umask's code, a line each event. */
#define _GNU_SOURCE
#include <perfmon/pfmlib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(void) {
	/* Events of CPUs that this is not. */
	setenv("LIBPFM_ENCODE_INACTIVE", "1", 1);
	if (pfm_initialize() != PFM_SUCCESS)
		return 1;
	for (int pmu = 0; pmu < PFM_PMU_MAX; pmu++) {
		pfm_pmu_info_t about = {.size = sizeof about};
		if (pfm_get_pmu_info(pmu, &about) != PFM_SUCCESS || strncmp(about.name, "amd64_fam1", 10))
			continue;
		for (int event = about.first_event; event != -1; event = pfm_get_event_next(event)) {
			pfm_event_info_t row = {.size = sizeof row};
			if (pfm_get_event_info(event, PFM_OS_NONE, &row) != PFM_SUCCESS)
				continue;
			printf("%s 0x%llx", about.name, (unsigned long long)row.code);
			for (int attr = 0; attr < row.nattrs; attr++) {
				pfm_event_attr_info_t mask = {.size = sizeof mask};
				if (pfm_get_event_attr_info(event, attr, PFM_OS_NONE, &mask) == PFM_SUCCESS && mask.type == PFM_ATTR_UMASK)
					printf(" 0x%llx", (unsigned long long)mask.code);
			}
			printf("\n");
		}
	}
	return 0;
}
