namespace LayerSkip.Cli

open System
open Argu
open LayerSkip

/// `layerskip chat`.
[<RequireQualifiedAccess>]
module internal ChatCommand =
    /// What a command line gives, with a chat's own most tokens.
    let private given (own: ChatArgument list) : GenerateOptions =
        GenerateArgument.MaxNewTokens ChatArgument.DefaultMaxNewTokens
        :: (own |> List.choose _.OfGenerate)
        |> GenerateOptions.read

    /// Faults of what is given, as far as no model is needed to see them; the grammar of answers.
    let private checkedGrammar (given: GenerateOptions) : Grammar option =
        GenerateOptions.sampling given |> ignore
        GivenGrammar.read given.IgnoreEos given.Grammar

    let private resolved (checkpoint: Checkpoint) (past: PastTexts) grammar (given: GenerateOptions) seed =
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

    /// A message, of one line or several; None where there are no more.
    let rec private read (room: ChatRoom) (typed: string list) : string option =
        let asks (mark: string) = Terminal.bold room.Terminal mark + " "

        let rec go first =
            match room.Input.Read(asks (if Option.isNone first then ">" else "."), 2, typed), first with
            | LineRead.Line line, None -> next (ChatWord.begin' line)
            | LineRead.Line line, Some(lines, isQuoted) -> next (ChatWord.continue' line lines isQuoted)
            | LineRead.Abandoned, _ ->
                Terminal.remark room.Terminal "Ctrl-D or /exit leaves"
                go None
            | LineRead.Ended, None -> None
            | LineRead.Ended, Some(lines, _) -> Some(ChatWord.ended lines)

        and next lines =
            match lines with
            | ChatLines.Whole message -> Some message
            | ChatLines.Open(lines, isQuoted) -> go (Some(lines, isQuoted))

        go None

    let private changed (room: ChatRoom) (own: ChatArgument list) (chat: ChatState) : ChatState =
        let given = given own
        let grammar = checkedGrammar given
        let options, plan = resolved room.Checkpoint room.Past grammar given chat.Seed
        { chat with Own = own; Given = given; Options = options; Plan = plan }

    /// As `--NAME VALUE` would have it.
    let private set (room: ChatRoom) (chat: ChatState) (name: string) (value: string option) : ChatState =
        let own =
            match name with
            | "adapter-file"
            | "past-texts" -> []
            | _ ->
                let words = Arguments.ofWords [| "chat"; $"--{name}"; yield! Option.toArray value |]

                match Arguments.parser().ParseCommandLine(words, raiseOnUsage = true).TryGetSubCommand() with
                | Some(Argument.Chat own) ->
                    own.GetAllResults() |> List.filter (_.OfGenerate >> Option.isSome)
                | _ -> []

        let seed =
            match name, value |> Option.map Int64.TryParse with
            | "seed", Some(true, seed) -> Some seed
            | _ -> None

        if own.IsEmpty && seed.IsNone then
            Inputs.usage $"{name} cannot be set here; /set shows what can"

        // An answer follows one grammar, the last that was named.
        let earlier =
            if own |> List.exists _.IsGrammar then
                chat.Own |> List.filter (_.IsGrammar >> not)
            else
                chat.Own

        changed room (earlier @ own) { chat with Seed = defaultArg seed chat.Seed }

    /// As it would be without `--NAME` and `/set NAME`.
    let private unset (room: ChatRoom) (chat: ChatState) (name: string) : ChatState =
        let parser = Arguments.parser().GetSubCommandParser <@ Argument.Chat @>

        let isNamed (argument: ChatArgument) =
            let words = parser.PrintCommandLineArguments [ argument ]
            words[0].Split('=')[0] = $"--{name}"

        match chat.Own |> List.filter (isNamed >> not) with
        | left when left.Length = chat.Own.Length -> Inputs.usage $"{name} is not set; /set shows what is"
        | left -> changed room left chat

    let private settings (room: ChatRoom) (chat: ChatState) : string =
        let orDefault (value: string option) standard =
            value |> Option.defaultValue (Output.plainNumber standard)

        String.concat ", " [
            $"temperature {orDefault chat.Given.Temperature Sampling.defaultTemperature}"
            $"top-k {chat.Given.TopK}"
            $"top-p {orDefault chat.Given.TopP Sampling.defaultTopP}"
            for name, value in
                [
                    "min-p", chat.Given.MinP
                    "repetition-penalty", chat.Given.Rules.RepetitionPenalty
                    "presence-penalty", chat.Given.Rules.PresencePenalty
                    "frequency-penalty", chat.Given.Rules.FrequencyPenalty
                ] do
                for value in Option.toList value do
                    $"{name} {value}"
            $"seed {chat.Seed}"
            $"max-new-tokens {chat.Options.MaxNewTokens}"
            for grammar in chat.Given.Grammar do
                Printable.line (Printable.cut 60 (GivenGrammar.spell grammar))
            GenerateCommand.summary room.Checkpoint chat.Options.Strategy chat.Plan
        ]

    let private history (room: ChatRoom) (chat: ChatState) =
        let told (who: string) (text: string) =
            Terminal.say room.Terminal (Terminal.bold room.Terminal who + " " + Printable.text text)

        chat.Turns.System |> Option.iter (told "system:")

        for turn in chat.Turns.Turns do
            told "you:" turn.Question
            told "model:" turn.Answer

        if chat.Turns.Turns.IsEmpty then
            Terminal.remark room.Terminal "nothing was said yet"

    let private help (room: ChatRoom) =
        let width = ChatWord.manual |> List.map (fst >> String.length) |> List.max

        for name, what in ChatWord.manual do
            Terminal.say room.Terminal $"{name.PadRight width}  {what}"

    let private renewed (turns: ChatTurns) (chat: ChatState) = { chat with Turns = turns; Last = None }

    let private takeBack (room: ChatRoom) (chat: ChatState) : (ChatTurn * ChatState) option =
        match ChatTurns.undo chat.Turns with
        | Some(last, turns) -> Some(last, { chat with Turns = turns; Last = None })
        | None ->
            Terminal.remark room.Terminal "nothing was said yet"
            None

    /// Does what a message says: the chat after it, or the exit code.
    let private act (room: ChatRoom) (chat: ChatState) (message: string) : Result<ChatState, int> =
        let tell = Terminal.remark room.Terminal

        match ChatWord.parse message with
        | ChatWord.Nothing -> Ok chat
        | ChatWord.Say text -> ChatAnswer.answer room chat text
        | ChatWord.Exit -> Error ExitCode.done'
        | ChatWord.Wrong why -> Inputs.usage why
        | ChatWord.Help ->
            help room
            Ok chat
        | ChatWord.History ->
            history room chat
            Ok chat
        | ChatWord.New ->
            tell "a new conversation"
            Ok(renewed (ChatTurns.start chat.Turns.System) chat)
        | ChatWord.System None ->
            tell (chat.Turns.System |> Option.defaultValue "there is no system message")
            Ok chat
        | ChatWord.System(Some text) ->
            tell "a new conversation, with this system message"
            Ok(renewed (ChatTurns.start (Some text)) chat)
        | ChatWord.Undo ->
            match takeBack room chat with
            | Some(last, chat) ->
                tell $"taken back: {Printable.cut 80 last.Question}"
                Ok chat
            | None -> Ok chat
        | ChatWord.Regenerate ->
            match takeBack room chat with
            | Some(last, chat) ->
                if chat.Options.Sampling = Sampling.Greedy then
                    tell "at temperature 0 the answer stays the same; /set temperature 0.7 draws others"

                ChatAnswer.answer room chat last.Question
            | None -> Ok chat
        | ChatWord.Stats ->
            tell (
                chat.Last
                |> Option.map (ChatAnswer.statistics room chat.Plan)
                |> Option.defaultValue "no answer was finished yet"
            )

            Ok chat
        | ChatWord.Set None ->
            tell (settings room chat)
            Ok chat
        | ChatWord.Set(Some(name, value)) ->
            let chat = set room chat name value
            tell (settings room chat)
            Ok chat
        | ChatWord.Unset name ->
            let chat = unset room chat name
            tell (settings room chat)
            Ok chat
        | ChatWord.Save file ->
            ChatTurns.save file chat.Turns |> Check.getOrRaise
            let turns = Terminal.count chat.Turns.Turns.Length "turn"
            tell $"{turns} written to {file}"
            Ok chat
        | ChatWord.Load file ->
            let turns = ChatTurns.load file |> Check.getOrRaise
            let count = Terminal.count turns.Turns.Length "turn"
            tell $"{count} read from {file}"
            Ok(renewed turns chat)

    /// The same; what is wrong with what a person typed is told, and the chat goes on.
    let private forgiving (room: ChatRoom) (chat: ChatState) (message: string) : Result<ChatState, int> =
        let tell why =
            Terminal.fault room.Terminal why
            Ok chat

        if not room.Input.IsTyped then
            act room chat message
        else
            try
                act room chat message
            with
            | :? UsageException as e -> tell e.Message
            | :? LayerSkipException as e -> tell (Faults.ofLibrary e.Errors)
            | :? ArguParseException as e -> tell (Faults.ofArgu e.Message)

    let rec private converse (room: ChatRoom) (typed: string list) (chat: ChatState) : int =
        match read room typed with
        | None -> ExitCode.done'
        | Some message ->
            let typed =
                if String.IsNullOrWhiteSpace message || List.tryHead typed = Some message then
                    typed
                else
                    message :: typed

            match forgiving room chat message with
            | Ok chat -> converse room typed chat
            | Error code -> code

    /// Without a template there is nothing to say: told before anything is asked.
    let private checkTemplate (checkpoint: Checkpoint) =
        match Chat.template checkpoint with
        | Error [ LayerSkipError.NoChatTemplate _ as fault ] ->
            Inputs.usage $"{LayerSkipError.message fault} to `layerskip generate`"
        | template -> Check.getOrRaise template |> ignore

    /// Runs the command over lines from somewhere; its exit code.
    let run (terminal: Terminal) (input: LineInput) (common: Common) (arguments: ChatArgument list) : int =
        let given = given arguments

        let system =
            arguments
            |> List.tryPick (function
                | ChatArgument.System text -> Some text
                | _ -> None)

        let loaded =
            arguments
            |> List.tryPick (function
                | ChatArgument.Load file -> Some(ChatTurns.load file |> Check.getOrRaise)
                | _ -> None)

        let turns =
            match loaded, system with
            | Some turns, Some _ -> { turns with System = system }
            | Some turns, None -> turns
            | None, system -> ChatTurns.start system

        let grammar = checkedGrammar given
        use own = Inputs.read common
        let checkpoint = Drafters.withFile given.AdapterFile own
        checkTemplate checkpoint

        let past =
            Drafters.past terminal given.PastTexts checkpoint
            |> Option.defaultWith (fun () -> PastTexts PastTexts.DefaultLimit)

        let options, plan = resolved checkpoint past grammar given common.Seed
        Inputs.remarks terminal checkpoint
        Drafters.remarks terminal given.Drafting checkpoint
        Drafters.costsRemarks terminal plan
        use conversation = Conversation.start checkpoint

        let room = {
            Terminal = terminal
            Input = input
            Json = common.Json
            Checkpoint = checkpoint
            Conversation = conversation
            Past = past
        }

        if input.IsTyped then
            let name = Fingerprint.name checkpoint.Path
            Terminal.remark terminal $"{name}: {GenerateCommand.summary checkpoint options.Strategy plan}"

            if terminal.Colour && plan.IsSome then
                Terminal.say terminal (Terminal.legend terminal)

            Terminal.remark terminal "/help lists commands, Ctrl-C ends an answer, Ctrl-D leaves"

        converse room [] {
            Own = arguments |> List.filter (_.OfGenerate >> Option.isSome)
            Given = given
            Seed = common.Seed
            Options = options
            Plan = plan
            Turns = turns
            Answers = 0L
            Last = None
        }
