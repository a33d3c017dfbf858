output "release" {
  description = "The release, once the tier runs it. Whoever depends on it goes over its nodes afterwards."
  value       = terraform_data.rollout.output.release
}
