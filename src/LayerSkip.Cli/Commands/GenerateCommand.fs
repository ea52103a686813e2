namespace LayerSkip.Cli

open System
open System.Threading
open LayerSkip

/// `layerskip generate`.
[<RequireQualifiedAccess>]
module internal GenerateCommand =
    /// The strategy, what drafts where something does, exit layer and draft length.
    let private described (strategy: Strategy) (plan: DraftingPlan option) =
        Drafting.nameOf strategy plan, Drafting.exitNamed strategy plan, DraftingOutput.length strategy plan

    /// What decodes, in one line: "cpu, 2 threads, bf16, prefill auto, self-speculative, exit layer 2, draft length 4".
    let summary (checkpoint: Checkpoint) strategy plan =
        let name, exit, length = described strategy plan

        let part label value =
            value |> Option.map (fun (value: int) -> $", {label} {value}") |> Option.defaultValue ""

        let ways = plan |> Option.map DraftingOutput.way |> Option.defaultValue ""
        let exit, length = part "exit layer" exit, part "draft length" length
        $"{Inputs.machine checkpoint}, {name}{ways}{exit}{length}"

    /// The contract's object; times in milliseconds, the rate in tokens a second after the first.
    let private json (checkpoint: Checkpoint) (options: GenerationOptions) plan (completion: Completion) =
        let name, exit, length = described options.Strategy plan
        let timings = completion.Timings

        // As the server has it: the text that the token alone is, U+FFFD where it is part of a character.
        let scored (id: int) (logProb: float) (writer: Text.Json.Utf8JsonWriter) =
            let text tokenizer = Tokenizer.decodeContinuing true tokenizer [ id ]
            writer.WriteNumber("id", id)
            writer |> JsonWrite.textOrNull "token" (checkpoint.Tokenizer |> Option.map text)
            writer.WriteNumber("logprob", logProb)

        JsonWrite.line (fun writer ->
            writer |> JsonWrite.ints "prompt_ids" completion.PromptIds
            writer |> JsonWrite.ints "token_ids" completion.TokenIds
            writer |> JsonWrite.textOrNull "text" completion.Text

            if options.LogProbs.IsSome then
                writer
                |> JsonWrite.objects
                    "logprobs"
                    (Seq.zip completion.TokenIds completion.LogProbs)
                    (fun (id, told) ->
                        scored id told.LogProb writer

                        writer
                        |> JsonWrite.objects "top" told.Top (fun likely ->
                            scored likely.Id likely.LogProb writer))

            writer.WriteString("finish_reason", FinishReason.name completion.Finish)

            writer |> Output.stats completion.Stats

            writer
            |> JsonWrite.object "timings" (fun _ ->
                writer |> Output.milliseconds "ttft_ms" timings.TtftMs
                writer |> Output.milliseconds "decode_ms" timings.DecodeMs
                writer |> Output.milliseconds "draft_ms" timings.DraftMs
                writer |> Output.milliseconds "verify_ms" timings.VerifyMs
                writer |> Output.milliseconds "head_ms" timings.HeadMs
                writer |> Output.milliseconds "policy_ms" timings.PolicyMs
                writer |> Output.milliseconds "tokens_per_second" completion.TokensPerSecond)

            writer.WriteString("strategy", name)
            writer |> JsonWrite.intOrNull "exit_layer" exit
            writer |> JsonWrite.intOrNull "draft_length" length
            DraftingOutput.json plan writer
            writer.WriteString("model", checkpoint.Path)
            writer.WriteString("device", Inputs.deviceName checkpoint.Weights.Device)
            writer.WriteString("dtype", Weights.dtypeName checkpoint.Weights)
            writer |> JsonWrite.textOrNull "stored_dtype" checkpoint.Config.StoredDtype
            writer |> JsonWrite.textOrNull "compute" (Weights.compute checkpoint.Weights)
            writer.WriteString("kv", Weights.kv checkpoint.Weights)
            writer.WriteString("prefill", Prefill.name checkpoint.Weights.Prefill)
            writer.WriteNumber("threads", CpuKernels.threads ()))

    /// What is said at the end: how many tokens, how fast, and what speculation did.
    let statistics plan (completion: Completion) =
        let timings = completion.Timings

        let tokens, first =
            Terminal.count completion.TokenIds.Length "token", Shown.fixedPoint 0 timings.TtftMs

        // One token has no rate.
        let speed =
            if completion.TokenIds.Length < 2 then
                $"{tokens} after {first} ms"
            else
                $"{tokens}, first after {first} ms, then {Shown.fixedPoint 1 completion.TokensPerSecond} a second"

        match DraftingOutput.statistics plan completion with
        | Some drafted -> $"{speed}; {drafted}"
        | None -> speed

    /// A token as standard output shows it: its text, or without a tokenizer its id.
    let private shown (checkpoint: Checkpoint) first (id: int) (text: string) =
        match checkpoint.Tokenizer with
        | Some _ -> text
        | None when first -> string id
        | None -> $",{id}"

    /// Pulls events until the last, writing text as it comes, and gives each token to `keep`; after a signal, its exit code.
    let follow (terminal: Terminal) checkpoint json keep start : Result<Completion, int> =
        let write (text: string) =
            if not json && text <> "" then
                terminal.Out.Write text
                terminal.Out.Flush()

        let mutable completion = None
        let mutable first = true
        let code = Runtime.CompilerServices.StrongBox 0
        let signal () = Volatile.Read &code.Value
        // Never disposed: a signal may still be handled when all is done.
        let cancelled = new CancellationTokenSource()

        use _cooperating =
            terminal.OnInterrupt(fun signal ->
                Volatile.Write(&code.Value, signal)
                cancelled.Cancel())

        try
            for event in
                (start cancelled.Token: GenerationEvent seq) |> Seq.takeWhile (fun _ -> signal () = 0) do
                match event with
                | GenerationEvent.Token token ->
                    keep { Id = token.Id; Origin = token.Origin; Text = token.Text; Settled = None }

                    shown checkpoint first token.Id token.Text
                    |> terminal.Shown
                    |> Terminal.coloured terminal token.Origin
                    |> write
                    first <- false
                | GenerationEvent.Prompt _
                | GenerationEvent.Round _ -> ()
                | GenerationEvent.End(rest, made) ->
                    write (terminal.Shown rest)
                    completion <- Some made
        with :? OperationCanceledException ->
            ()

        completion |> Option.map Ok |> Option.defaultWith (fun () -> Error(signal ()))

    /// The layer that each new token is settled at: of the greedy text, whose every token is the last layer's choice.
    let private settled
        (checkpoint: Checkpoint)
        (options: GenerationOptions)
        (completion: Completion)
        (tokens: ShownToken list)
        =
        let isWhole =
            options.Sampling = Sampling.Greedy
            && options.Strategy.Depth.IsNone
            && TokenRules.isNone options.Rules

        if not isWhole || tokens.Length > completion.TokenIds.Length then
            tokens
        else
            let text = Array.append completion.PromptIds completion.TokenIds
            let last = { Lens.options with TopK = 1; Layers = [ checkpoint.Config.Layers ] }

            match Lens.run checkpoint last text with
            | Ok lens ->
                let first = completion.PromptIds.Length - 1
                tokens |> List.mapi (fun i token -> { token with Settled = Some lens.Settled[first + i] })
            | Error _ -> tokens

    /// The page of `--html`.
    let private page
        (checkpoint: Checkpoint)
        (options: GenerationOptions)
        (plan: DraftingPlan option)
        (completion: Completion)
        (tokens: ShownToken list)
        =
        let ids = completion.PromptIds

        let prompt =
            match checkpoint.Tokenizer with
            | Some tokenizer -> Tokenizer.decode options.ShowSpecial tokenizer ids
            | None -> (ids |> Seq.map string |> String.concat ",") + ","

        [
            TokenPlots.coloured
                "Where the text comes from"
                $"{Fingerprint.name checkpoint.Path}; {summary checkpoint options.Strategy plan}; {statistics plan completion}"
                prompt
                (settled checkpoint options completion tokens)
        ]
        |> Plots.html $"Text of {Fingerprint.name checkpoint.Path}"

    /// Runs the command; its exit code. All that can be checked without the model is checked before it is loaded.
    let run (terminal: Terminal) (common: Common) (arguments: GenerateArgument list) : int =
        let given = GenerateOptions.read arguments
        let prompt = GenerateOptions.prompt given
        let sampling = GenerateOptions.sampling given
        let grammar = GivenGrammar.read given.IgnoreEos given.Grammar

        if given.Own.LogProbs.IsSome && not common.Json then
            Inputs.usage "--logprobs is told with --json alone; give it too, or leave --logprobs out"

        let texts = given.PastTexts |> List.filter IO.File.Exists
        let reads = Inputs.modelPlace common @ GivenPrompts.files given.Prompts @ texts
        use output = OutputFile.Open(given.Output, reads)
        use pageFile = OutputFile.OpenPage(given.Html, given.Output, reads)
        use own = Inputs.read common
        let checkpoint = Drafters.withFile given.AdapterFile own
        let past = Drafters.past terminal given.PastTexts checkpoint
        let given = { given with Drafting.Past = past }
        let options, plan = GenerateOptions.resolve common.Seed sampling checkpoint given
        let options = GivenGrammar.hold grammar checkpoint options

        let ids = GenerateOptions.encode checkpoint given prompt
        let start = Generation.prepare checkpoint.Weights checkpoint.Tokenizer options ids |> Check.getOrRaise

        Inputs.remarks terminal checkpoint
        Drafters.remarks terminal given.Drafting checkpoint
        Drafters.costsRemarks terminal plan

        if not given.Chat then
            GivenPrompts.remarks terminal checkpoint prompt ids

        Terminal.remark terminal (summary checkpoint options.Strategy plan)
        let tokens = ResizeArray<ShownToken>()
        let completion = follow terminal checkpoint common.Json tokens.Add start

        if not common.Json then
            terminal.Out.WriteLine()
            terminal.Out.Flush()

        match completion with
        | Error code ->
            Terminal.fault terminal "interrupted"
            code
        | Ok completion ->
            if common.Json then
                output.Tell(terminal, json checkpoint options plan completion)
            else
                let ids = completion.TokenIds |> Seq.map string |> String.concat ","
                output.Write(defaultArg completion.Text ids)

            pageFile.Make(fun () -> page checkpoint options plan completion (List.ofSeq tokens))

            let hasColours = terminal.Colour && not common.Json && completion.Stats.NumSpecSteps > 0

            if hasColours && terminal.Status.IsLive then
                Terminal.say terminal (Terminal.legend terminal)

            Terminal.remark terminal (statistics plan completion)

            if grammar.IsSome && completion.Finish = FinishReason.Length then
                Terminal.remark
                    terminal
                    "the text was cut before its grammar let it end; give more --max-new-tokens"

            ExitCode.done'
