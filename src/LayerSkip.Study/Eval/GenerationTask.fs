namespace LayerSkip

open System
open System.Collections.Generic
open System.Text.Json

/// Tasks whose answers are generated: at every exit layer that is asked for, and by self-speculation beside plain decoding, whose
/// text it writes: scores, acceptance and speed of the same questions in one run.
[<RequireQualifiedAccess>]
module internal GenerationTask =
    /// A model of fewer weights knows too little of such questions to answer any but by chance.
    let private smallest = 50_000_000L

    let private faults (options: EvalOptions) : LayerSkipError list =
        let wanted = options.Generation

        [
            yield! Check.atLeast 1 "samples" wanted.Samples
            if wanted.Samples > 1 && wanted.Sampling.IsGreedy then
                LayerSkipError.OutOfRange(
                    "samples",
                    string wanted.Samples,
                    "1 at temperature 0, where all of them are the same; give a temperature"
                )
            for count in Option.toList wanted.MaxNewTokens do
                yield! Check.atLeast 1 "max-new-tokens" count
            for length in Option.toList wanted.DraftLength do
                yield! Check.atLeast 1 "draft-length" length
        ]

    /// By name, with the layers that choose the tokens: plain decoding, self-speculation, then exits.
    let private ways (checkpoint: Checkpoint) (options: EvalOptions) =
        let layers = checkpoint.Config.Layers
        let wanted = options.Generation
        let exit, length = Checkpoint.exitAndDraft checkpoint
        let isWanted name = wanted.Strategies.IsEmpty || List.contains name wanted.Strategies
        let early = options.ExitLayers |> List.distinct |> List.sort |> List.filter ((>) layers)

        let early =
            if early.IsEmpty && List.contains GenerationWay.EarlyExit wanted.Strategies then
                [ defaultArg wanted.Exit exit ]
            else
                early

        [
            if isWanted GenerationWay.Autoregressive then
                Ok Strategy.Autoregressive
            if isWanted GenerationWay.SelfSpeculative then
                ExitLayer.TryCreate(layers, defaultArg wanted.Exit exit)
                |> Result.map (fun exit ->
                    Strategy.SelfSpeculative(exit, defaultArg wanted.DraftLength length))
            if isWanted GenerationWay.EarlyExit then
                for exit in early do
                    ExitLayer.TryCreate(layers, exit) |> Result.map Strategy.EarlyExit
        ]
        |> Check.list
        |> Result.map (
            List.map (fun strategy ->
                let depth = strategy.Depth |> Option.map _.Layers |> Option.defaultValue layers
                strategy.Name, depth, strategy)
        )

    /// Runs programs where the questions have some and it is allowed to.
    let private runner (source: GenerationSource) (options: EvalOptions) =
        if not source.IsCode then
            Ok None
        elif not options.Generation.RunCode then
            Check.unsupported
                $"{source.Name} without running the Python that the model writes"
                "that is code which nobody has read, and is run with limits, not without risk; allow it on purpose (docs/evaluation.md says what the sandbox keeps off)"
        else
            Sandbox.find options.Generation.Limits |> Result.map Some

    /// The text of the first examples, without the question itself, each with an empty line behind it.
    let private examples (count: int) (pool: Question list) (question: Question) : string =
        pool
        |> Seq.filter (fun example -> example.Example.IsSome && example.Item <> question.Item)
        |> Seq.truncate count
        |> Seq.map (fun example -> example.Example.Value + "\n\n")
        |> String.concat ""

    let private settings
        (source: GenerationSource)
        shots
        (ways: (string * int * Strategy) list)
        (stopIds: int[])
        (options: EvalOptions)
        (json: Utf8JsonWriter)
        =
        let wanted = options.Generation
        json.WriteNumber("shots", (shots: int))
        options.ShotsFrom
        |> Option.iter (fun path -> json.WriteString("shots_from", Fingerprint.name path))

        json
        |> JsonWrite.objects "strategies" ways (fun (name, _, strategy) ->
            json.WriteString("strategy", name)
            strategy.Exit |> Option.iter (fun exit -> json.WriteNumber("exit_layer", exit.Layers))
            strategy.DraftLength
            |> Option.iter (fun length -> json.WriteNumber("draft_length", length)))

        json.WriteNumber("max_new_tokens", defaultArg wanted.MaxNewTokens source.MaxNewTokens)
        json.WriteNumber("samples", wanted.Samples)

        match wanted.Sampling with
        | Sampling.Greedy -> json.WriteNumber("temperature", 0)
        | Sampling.Filtered(temperature, k, p, minP) ->
            json.WriteNumber("temperature", temperature)
            json.WriteNumber("top_k", k)
            json.WriteNumber("top_p", p)

            if minP > 0.0 then
                json.WriteNumber("min_p", minP)

        json |> JsonWrite.ints "stop_ids" stopIds

    let private remarks (checkpoint: Checkpoint) (sandbox: Sandbox option) =
        let parameters = Weights.parameters checkpoint.Config

        [
            if parameters < smallest then
                let millions =
                    (float parameters / 1e6).ToString("0.0", Globalization.CultureInfo.InvariantCulture)
                $"scores of a model of {millions} million parameters are chance; acceptance and speed are the result"
            for missing in sandbox |> Option.map _.Missing |> Option.defaultValue [] do
                $"generated Python ran without {missing}, which this system does not have"
        ]

    let private prepare (source: GenerationSource) (checkpoint: Checkpoint) (options: EvalOptions) =
        let read paths = paths |> List.map source.Read |> Check.list |> Result.map List.concat
        let given = Check.both (read options.Data) (read (Option.toList options.ShotsFrom))

        Check.all (faults options) ()
        |> Result.bind (fun () ->
            Check.both (Check.both (Checkpoint.tokenizer checkpoint) (ways checkpoint options)) given)
        |> Result.bind (fun ((tokenizer, ways), (questions, more)) ->
            let own, questions = source.Part questions
            let pool =
                if not more.IsEmpty then more
                elif own.IsEmpty then questions
                else own
            let usable = pool |> List.filter _.Example.IsSome |> List.length
            // A question that is among them is no example for itself.
            let most =
                let asked = HashSet(questions |> Seq.map _.Item)
                if pool |> List.exists (fun example -> asked.Contains example.Item) then
                    max 0 (usable - 1)
                else
                    usable
            let shots = options.Shots |> Option.defaultValue (min source.Shots most)

            let items =
                questions
                |> List.map (fun question ->
                    GenerationItem.after (examples shots pool question) question.Item)
                |> GenerationItem.interleaved
                |> Array.ofList

            Check.all
                (Check.inRange
                    (0 <= shots && shots <= most)
                    "shots"
                    (string shots)
                    $"0 to {most}, the examples with an answer that there are")
                ()
            |> Result.bind (fun () -> runner source options)
            |> Result.map (fun sandbox ->
                let setup = {
                    Checkpoint = checkpoint
                    Tokenizer = tokenizer
                    Ways = ways
                    Options = {
                        GenerationOptions.defaults with
                            Sampling = options.Generation.Sampling
                            MaxNewTokens = defaultArg options.Generation.MaxNewTokens source.MaxNewTokens
                            StopIds = defaultArg options.Generation.StopIds checkpoint.StopIds
                            StopTexts = source.Stops
                            Seed = options.Seed
                    }
                    Samples = options.Generation.Samples
                    Run =
                        fun program ->
                            sandbox
                            |> Option.map (fun sandbox -> Sandbox.run sandbox program)
                            |> Option.defaultValue Verdict.EndedEarly
                }

                let warm = lazy (GenerationRun.warmUp setup items[0].Turns.Head.Prompt)
                let isGreedy = setup.Options.Sampling.IsGreedy

                {
                    Items = items.Length
                    Settings = settings source shots ways setup.Options.StopIds options
                    Score =
                        fun index ->
                            warm.Force()

                            GenerationRun.answers setup index items[index]
                            |> GenerationCell.write isGreedy ways items[index]
                    ExitLayers =
                        ways |> List.map (fun (_, layers, _) -> layers) |> List.distinct |> List.sort
                    Files = Option.toList options.ShotsFrom
                    Remarks = remarks checkpoint sandbox
                }))

    let private task (source: GenerationSource) : EvalTask = {
        Name = source.Name
        About = source.About
        Takes = [
            "shots"
            "shots-from"
            "strategy"
            "exit-layer"
            "draft-length"
            "max-new-tokens"
            "temperature"
            "top-k"
            "top-p"
            "samples"
            "stop-ids"
            "ignore-eos"
            if source.IsCode then
                "allow-code-execution"
        ]
        Prepare = prepare source
        Sum = GenerationSummary.sum
    }

    /// The tasks, in the order in which they are told.
    let tasks: EvalTask list = GenerationSources.all |> List.map task
