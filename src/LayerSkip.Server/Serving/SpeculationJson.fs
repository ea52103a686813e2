namespace LayerSkip.Server

open System.Text.Json
open LayerSkip

/// What speculation did for a request's texts together: "metrics": {"speculative_decoding": ...}.
[<RequireQualifiedAccess>]
module internal SpeculationJson =
    /// Writes it; the names of what drafted are the requests' words, null where nothing did.
    let write (plan: WritingPlan) (texts: Completion list) (json: Utf8JsonWriter) : unit =
        let stats = texts |> List.map _.Stats |> SpeculationStats.merge

        let text name (value: DraftingPlan -> string) =
            json |> JsonWrite.textOrNull name (plan.Plan |> Option.map value)

        json
        |> JsonWrite.object "metrics" (fun _ ->
            json
            |> JsonWrite.object "speculative_decoding" (fun _ ->
                json.WriteString("strategy", Drafting.nameOf plan.Options.Strategy plan.Plan)
                text "policy" (_.Policy >> DraftPolicyKind.name)
                text "drafter" (_.Drafter >> DrafterKind.name)
                text "stop_rule" (_.StopRule >> StopRule.spell)

                json
                |> JsonWrite.intOrNull "exit_layer" (Drafting.exitNamed plan.Options.Strategy plan.Plan)

                json |> JsonWrite.intOrNull "draft_length" (plan.Plan |> Option.bind _.Length)
                json.WriteNumber("num_spec_steps", stats.NumSpecSteps)
                json.WriteNumber("num_draft_tokens", stats.NumDraftTokens)
                json.WriteNumber("num_accepted_draft_tokens", stats.NumAcceptedDraftTokens)
                json.WriteNumber("draft_acceptance_rate", stats.DraftAcceptanceRate)
                json.WriteNumber("mean_acceptance_length", stats.MeanAcceptanceLength)
                json |> JsonWrite.ints "acceptance_histogram" stats.AcceptanceHistogram)

            let decode = texts |> List.sumBy _.Timings.DecodeMs
            let tokens = texts |> List.sumBy (fun text -> max 0 (text.TokenIds.Length - 1))
            json.WriteNumber("ttft_ms", texts |> List.sumBy _.Timings.TtftMs)
            json.WriteNumber("decode_ms", decode)

            json.WriteNumber(
                "tokens_per_second",
                (if decode > 0.0 then 1000.0 * float tokens / decode else 0.0)
            ))
