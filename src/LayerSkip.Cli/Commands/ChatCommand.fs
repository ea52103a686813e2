namespace LayerSkip.Cli

open System
open Argu
open LayerSkip

/// `layerskip chat`.
[<RequireQualifiedAccess>]
module internal ChatCommand =
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
            tell (ChatSettings.line room chat)
            tell $"/set takes {ChatSettings.names ()}"
            Ok chat
        | ChatWord.Set(Some(name, value)) ->
            let chat = ChatSettings.set room chat name value
            tell (ChatSettings.line room chat)
            Ok chat
        | ChatWord.Unset name ->
            let chat = ChatSettings.unset room chat name
            tell (ChatSettings.line room chat)
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
            Inputs.usage $"{Faults.ofLibrary [ fault ]} to `layerskip generate`"
        | template -> Check.getOrRaise template |> ignore

    /// Runs the command over lines from somewhere; its exit code.
    let run (terminal: Terminal) (input: LineInput) (common: Common) (arguments: ChatArgument list) : int =
        let given = ChatSettings.given arguments

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

        let grammar = ChatSettings.checkedGrammar given
        use own = Inputs.read common
        let checkpoint = Drafters.withFile given.AdapterFile own
        checkTemplate checkpoint

        let past =
            Drafters.past terminal given.PastTexts checkpoint
            |> Option.defaultWith (fun () -> PastTexts PastTexts.DefaultLimit)

        let options, plan = ChatSettings.resolved checkpoint past grammar given common.Seed
        Inputs.remarks terminal checkpoint

        match loaded |> Option.bind _.System with
        | Some own when system.IsSome && system <> Some own ->
            Terminal.remark terminal "--system takes the place of the system message that the --load file has"
        | _ -> ()

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
