/** What a destination is asked for, by a source of whatever approach. Each destination puts it into its own words. */
import { type Static, Type } from "typebox";
import { ContainerNeed } from "./container.ts";
import { PodNeed } from "./pod.ts";

export const ServiceNeed = Type.Union([ContainerNeed, PodNeed]);
export type ServiceNeed = Static<typeof ServiceNeed>;
