namespace LayerSkip.Cli

open System
open Argu
open LayerSkip

/// How a chat's answers are written: as options and /set have it.
[<RequireQualifiedAccess>]
module internal ChatSettings =
    /// What a command line gives, with a chat's own most tokens.
    let given (own: ChatArgument list) : GenerateOptions =
        GenerateArgument.MaxNewTokens ChatArgument.DefaultMaxNewTokens
        :: (own |> List.choose _.OfGenerate)
        |> GenerateOptions.read

    /// Faults of what is given, as far as no model is needed to see them; the grammar of answers.
    let checkedGrammar (given: GenerateOptions) : Grammar option =
        GenerateOptions.sampling given |> ignore
        GivenGrammar.read given.IgnoreEos given.Grammar

    let resolved (checkpoint: Checkpoint) (past: PastTexts) grammar (given: GenerateOptions) seed =
        let sampling = GenerateOptions.sampling given
        let drafting = { given.Drafting with Past = if given.PastTexts.IsEmpty then None else Some past }

        let options, plan =
            GenerateOptions.resolve seed sampling checkpoint { given with Drafting = drafting }

        // Earlier answers help whoever looks up.
        let plan = plan |> Option.map (Drafting.remembering past)

        let options = {
            options with
                Strategy =
                    plan |> Option.map (Drafting.strategy checkpoint) |> Option.defaultValue options.Strategy
                StopIds =
                    match given.StopIds with
                    | None -> Chat.stopIds checkpoint
                    | Some _ -> options.StopIds
        }

        GivenGrammar.hold grammar checkpoint options, plan

    let private changed (room: ChatRoom) (own: ChatArgument list) (chat: ChatState) : ChatState =
        let given = given own
        let grammar = checkedGrammar given
        let options, plan = resolved room.Checkpoint room.Past grammar given chat.Seed
        { chat with Own = own; Given = given; Options = options; Plan = plan }

    // No quotation asks the whole parser for it: one names the file that it stands in, in the assembly.
    let private parser = lazy (ArgumentParser.Create<ChatArgument>(programName = "layerskip chat"))

    /// An option as it was given, in words: "stop", "."; or "special" alone.
    let private words (argument: ChatArgument) : string list =
        let printed = parser.Value.PrintCommandLineArguments [ argument ] |> List.ofArray
        List.ofArray (printed.Head.Substring(2).Split('=', 2)) @ printed.Tail

    let private nameOf argument = (words argument).Head

    /// What is read once, when the chat begins.
    let private fixed' = [ "help"; "system"; "load"; "adapter-file"; "past-texts" ]

    let private settable =
        lazy
            (parser.Value.GetArgumentCases()
             |> List.collect (fun case -> case.CommandLineNames.Value)
             |> List.map _.TrimStart('-')
             |> List.filter (fun name -> not (List.contains name fixed'))
             |> fun names -> names @ [ "seed" ])

    /// What /set takes, in a line.
    let names () : string = String.concat ", " settable.Value

    let private read (name: string) (value: string option) : ChatArgument list =
        let words = Arguments.ofWords [| "chat"; $"--{name}"; yield! Option.toArray value |]

        try
            match Arguments.parser().ParseCommandLine(words, raiseOnUsage = true).TryGetSubCommand() with
            | Some(Argument.Chat own) -> own.GetAllResults() |> List.filter (_.OfGenerate >> Option.isSome)
            | _ -> []
        with :? ArguParseException as e ->
            Inputs.usage ((Faults.ofArgu e.Message).Replace($"--{name}", name))

    /// As `--NAME VALUE` would have it.
    let set (room: ChatRoom) (chat: ChatState) (name: string) (value: string option) : ChatState =
        if not (List.contains name settable.Value) then
            Inputs.usage $"{Printable.cut 40 name} cannot be set here; /set takes {names ()}"

        let own = read name value

        let seed =
            match name, value |> Option.map Int64.TryParse with
            | "seed", Some(true, seed) -> seed
            | _ -> chat.Seed

        // An answer follows one grammar, the last that was named; and each option but these says one thing.
        let isReplaced (earlier: ChatArgument) =
            own
            |> List.exists (fun now ->
                now.IsGrammar && earlier.IsGrammar
                || not (now.IsStop || now.IsLogitBias) && nameOf now = nameOf earlier)

        let earlier = chat.Own |> List.filter (isReplaced >> not)
        changed room (earlier @ own) { chat with Seed = seed }

    /// As it would be without `--NAME` and `/set NAME`.
    let unset (room: ChatRoom) (chat: ChatState) (name: string) : ChatState =
        match chat.Own |> List.filter (fun argument -> nameOf argument <> name) with
        | left when left.Length = chat.Own.Length -> Inputs.usage $"{name} is not set; /set shows what is"
        | left -> changed room left chat

    /// Whether the summary of what decodes, or what stands before it, tells of an option in words of its own.
    let private isTold (argument: ChatArgument) =
        match argument with
        | ChatArgument.Temperature _
        | ChatArgument.TopK _
        | ChatArgument.TopP _
        | ChatArgument.MaxNewTokens _
        | ChatArgument.Strategy _
        | ChatArgument.ExitLayer _
        | ChatArgument.DraftLength _
        | ChatArgument.Drafter _
        | ChatArgument.Policy _
        | ChatArgument.StopRule _
        | ChatArgument.DraftVocabulary _
        | ChatArgument.LayersKept _
        | ChatArgument.PastTexts _ -> true
        | _ -> false

    /// All that is set, in a line.
    let line (room: ChatRoom) (chat: ChatState) : string =
        let orDefault (value: string option) standard =
            value |> Option.defaultValue (Output.plainNumber standard)

        String.concat ", " [
            $"temperature {orDefault chat.Given.Temperature Sampling.defaultTemperature}"
            $"top-k {chat.Given.TopK}"
            $"top-p {orDefault chat.Given.TopP Sampling.defaultTopP}"
            $"seed {chat.Seed}"
            $"max-new-tokens {chat.Options.MaxNewTokens}"
            for argument in chat.Own do
                if not (isTold argument) then
                    Printable.line (Printable.cut 60 (String.concat " " (words argument)))
            GenerateCommand.summary room.Checkpoint chat.Options.Strategy chat.Plan
        ]
