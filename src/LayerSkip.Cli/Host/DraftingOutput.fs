namespace LayerSkip.Cli

open System.Text.Json
open LayerSkip

/// What commands tell of a drafting.
[<RequireQualifiedAccess>]
module internal DraftingOutput =
    /// The most drafts of a round, where that is fixed.
    let length (strategy: Strategy) (plan: DraftingPlan option) : int option =
        plan |> Option.bind _.Length |> Option.orElse strategy.DraftLength

    let private isExitAlone (plan: DraftingPlan) =
        plan.Policy = DraftPolicyKind.Static && plan.Drafter = DrafterKind.Exit

    /// After the strategy's name, what is not an exit with a fixed length: ", policy auto, drafter cascade".
    let way (plan: DraftingPlan) : string =
        String.concat "" [
            if plan.Policy <> DraftPolicyKind.Static then
                $", policy {DraftPolicyKind.name plan.Policy}"
            if not (isExitAlone plan) then
                $", drafter {DrafterKind.name plan.Drafter}"
            for set in Option.toList plan.Layers do
                $" of layers {set}"
            if plan.StopRule <> StopRuleKind.Never then
                $", stop rule {StopRule.spell plan.StopRule}"
            for vocabulary in Option.toList plan.Vocabulary do
                $", draft vocabulary of {vocabulary.Capacity} ids"
            for past in Option.toList plan.Past do
                if past.Count > 0 then
                    $", past texts of {Output.number past.Count} tokens"
        ]

    /// "policy", "drafter", "stop_rule", "layers_kept", "draft_vocabulary" (the most ids; null: all), "past_tokens" (null: no past texts);
    /// null of what drafts nothing.
    let json (plan: DraftingPlan option) (writer: Utf8JsonWriter) : unit =
        let text name (value: DraftingPlan -> string option) =
            writer |> JsonWrite.textOrNull name (Option.bind value plan)

        text "policy" (_.Policy >> DraftPolicyKind.name >> Some)
        text "drafter" (_.Drafter >> DrafterKind.name >> Some)
        text "stop_rule" (_.StopRule >> StopRule.spell >> Some)
        text "layers_kept" (_.Layers >> Option.map string)

        writer
        |> JsonWrite.intOrNull "draft_vocabulary" (plan |> Option.bind _.Vocabulary |> Option.map _.Capacity)

        writer
        |> JsonWrite.intOrNull "past_tokens" (plan |> Option.bind _.Past |> Option.map _.Count)

    /// What one source came to: "exit 2 kept 63 of 80", "lookup 20 of 22".
    let private kept (verb: string) (source: SourceStats) =
        let exit =
            source.MeanExitLayer
            |> Option.map (fun mean -> " " + Output.plainNumber (System.Math.Round(mean, 1)))
            |> Option.defaultValue ""

        $"{source.Source}{exit}{verb} {source.AcceptedDraftTokens} of {source.DraftTokens}"

    /// What drafts came to, in a line; None where nothing drafts.
    let statistics (plan: DraftingPlan option) (completion: Completion) : string option =
        let stats = completion.Stats
        let rounds = Terminal.count stats.NumSpecSteps "round"
        let perRound = $"{Shown.fixedPoint 2 stats.MeanAcceptanceLength} tokens a round"

        match plan with
        | Some plan when not (isExitAlone plan) ->
            let sources =
                stats.Sources
                |> List.ofArray
                |> List.mapi (fun place source -> kept (if place = 0 then " kept" else "") source)
                |> String.concat ", "

            let drafted =
                if stats.NumSpecSteps = 0 then
                    "nothing was drafted"
                else
                    $"{rounds}: {sources}; {perRound}"

            Some $"{drafted}; policy {Shown.percent completion.Timings.PolicyShare} of the time"
        | _ when stats.NumSpecSteps = 0 -> None
        | _ ->
            let drafts = Terminal.count stats.NumDraftTokens "draft"

            Some(
                $"{rounds} kept {stats.NumAcceptedDraftTokens} of {drafts} "
                + $"({Shown.percent stats.DraftAcceptanceRate}), {perRound}"
            )
