namespace LayerSkip

open System
open System.Collections.Generic
open System.Numerics
open System.Runtime.CompilerServices

/// How a statement ends.
[<RequireQualifiedAccess>]
type internal JinjaFlow =
    | Next
    | Break
    | Continue

/// One rendering of a template. For one thread, once.
[<Sealed>]
type internal JinjaEvaluator(work: Work) =
    // What is being done, for faults.
    let mutable at: JinjaPlace = { Line = 1; Column = 1 }

    let unknown kind name : 'T = Value.fail $"no {kind} {name} is known here"

    let tryFilter (name: string) =
        JinjaFilters.tryFind name |> Option.orElseWith (fun () -> JinjaListFilters.tryFind name)

    let rec filter (name: string) (value: Value) (given: Given) : Value =
        match tryFilter name with
        | Some filter -> filter (context ()) value given
        | None -> unknown "filter" name

    and test (name: string) (value: Value) (given: Given) : bool =
        match JinjaTests.tryFind name with
        | Some test -> test (context ()) value given
        | None -> unknown "test" name

    and context () : JinjaContext = { Work = work; Filter = filter; Test = test }

    let isKnown (name: string) (value: Value) =
        let name' = (JinjaPrint.text work value).Text

        if name = "filter" then
            (tryFilter name').IsSome
        else
            (JinjaTests.tryFind name').IsSome

    /// Where the rendering is.
    member _.At: JinjaPlace = at

    member private this.Given(scope: JinjaScope, arguments: CallArguments) : Given = {
        Positional = [
            for value in arguments.Positional do
                this.Evaluate(scope, value)
            for values in Option.toList arguments.Spread do
                yield! Value.items work (this.Evaluate(scope, values))
        ]
        Named = [
            for name, value in arguments.Named do
                name, this.Evaluate(scope, value)
            for values in Option.toList arguments.NamedSpread do
                match this.Evaluate(scope, values) with
                | Value.Dict dict ->
                    for name, value in Array.zip dict.Keys dict.Values do
                        (JinjaPrint.text work name).Text, value
                | other -> Value.fail $"** is of dictionaries, not of a {Value.typeName other}"
        ]
    }

    member private this.Filtered(scope: JinjaScope, value: Value, call: FilterCall) : Value =
        let given = this.Given(scope, call.Arguments)
        at <- call.Place
        work.Spend 1
        filter call.Name value given

    member private _.Call(called: Value, given: Given) : Value =
        match called with
        | Value.Function called -> called.Invoke given
        | Value.Undefined what -> Value.fail what
        | Value.Loop _ -> Value.fail "recursive loops are not known here"
        | other -> Value.fail $"a {Value.typeName other} cannot be called"

    /// The value of an expression.
    member this.Evaluate(scope: JinjaScope, expression: Expression) : Value =
        RuntimeHelpers.EnsureSufficientExecutionStack()
        work.Spend 1
        let inner (expression: Expression) = this.Evaluate(scope, expression)
        let here () = at <- expression.At

        match expression.Form with
        | ExpressionForm.Constant value -> value
        | ExpressionForm.Variable name ->
            match scope.TryFind name with
            | ValueSome value -> value
            | ValueNone -> Value.Undefined $"'{name}' is undefined"
        | ExpressionForm.List items -> Value.List(items |> List.map inner |> Array.ofList)
        | ExpressionForm.Tuple items -> Value.Tuple(items |> List.map inner |> Array.ofList)
        | ExpressionForm.Dict pairs ->
            let pairs = pairs |> List.map (fun (key, value) -> struct (inner key, inner value))
            here ()
            Value.Dict(Value.dict pairs)
        | ExpressionForm.Attribute(value, name) ->
            let value = inner value
            here ()
            JinjaAccess.attribute work value name
        | ExpressionForm.Item(value, key) ->
            let value = inner value
            let key = inner key
            here ()
            JinjaAccess.item work value key
        | ExpressionForm.Slice(value, start, stop, step) ->
            let value = inner value
            let bound = Option.map inner >> Option.defaultValue Value.None
            let start, stop, step = bound start, bound stop, bound step
            here ()

            JinjaOperators.trySlice work value start stop step
            |> ValueOption.defaultValue (Value.Undefined $"a {Value.typeName value} cannot be cut")
        | ExpressionForm.Call(called, arguments) ->
            let called = inner called
            let given = this.Given(scope, arguments)
            here ()
            this.Call(called, given)
        | ExpressionForm.Filter(value, call) -> this.Filtered(scope, inner value, call)
        | ExpressionForm.Test(value, call) ->
            let value = inner value
            let given = this.Given(scope, call.Arguments)
            at <- call.Place

            match call.Name with
            | "filter"
            | "test" -> Value.Bool(isKnown call.Name value)
            | name -> Value.Bool(test name value given)
        | ExpressionForm.Negate value ->
            let value = inner value
            here ()
            JinjaOperators.negate value
        | ExpressionForm.Plus value ->
            let value = inner value
            here ()
            JinjaOperators.plus value
        | ExpressionForm.Not value -> Value.Bool(not (Value.isTrue (inner value)))
        | ExpressionForm.And(a, b) ->
            let first = inner a
            if Value.isTrue first then inner b else first
        | ExpressionForm.Or(a, b) ->
            let first = inner a
            if Value.isTrue first then first else inner b
        | ExpressionForm.Binary(operator, a, b) ->
            let first = inner a
            let second = inner b
            here ()
            JinjaOperators.apply work operator first second
        | ExpressionForm.Join pieces ->
            let pieces = pieces |> List.map inner
            here ()

            pieces
            |> List.map (JinjaPrint.text work)
            |> Array.ofList
            |> JinjaText.join work (Marked.trusted "")
            |> Value.Text
        | ExpressionForm.Compare(first, others) ->
            let rec holds (left: Value) others =
                match others with
                | [] -> true
                | (comparison, right) :: others ->
                    let right = inner right
                    here ()
                    JinjaOperators.compares work comparison left right && holds right others

            Value.Bool(holds (inner first) others)
        | ExpressionForm.Choice(condition, yes, no) ->
            match no with
            | _ when Value.isTrue (inner condition) -> inner yes
            | Some no -> inner no
            | None -> Value.Undefined "an if without else has no value here"

    member private this.Assign(scope: JinjaScope, target: Target, value: Value) : unit =
        match target with
        | Target.Name name -> scope.Set(name, value)
        | Target.Attribute(name, attribute, place) ->
            at <- place

            match scope.TryFind name with
            | ValueSome(Value.Namespace names) -> names[attribute] <- value
            | _ -> Value.fail $"{name} is no namespace, so {attribute} cannot be assigned to"
        | Target.Tuple targets ->
            let items = Value.items work value

            if items.Length <> targets.Length then
                Value.fail $"{items.Length} values cannot be assigned to {targets.Length} names"

            List.iteri (fun i target -> this.Assign(scope, target, items[i])) targets

    /// What statements write in a scope of theirs, as a text of its own.
    member private this.Captured(own: JinjaScope, body: Statement list) : Value =
        let out = work.Builder()
        this.Run(own, out, 0, body) |> ignore
        Value.Text(work.Made(out.Finish()))

    /// The same in a scope inside of another, through filters.
    member private this.CapturedThrough
        (scope: JinjaScope, calls: FilterCall list, body: Statement list)
        : Value =
        let filtered value call = this.Filtered(scope, value, call)
        List.fold filtered (this.Captured(JinjaScope scope, body)) calls

    member private this.Macro(scope: JinjaScope, macro: Macro) : Value =
        let names = List.map fst macro.Parameters

        let invoke (given: Given) =
            RuntimeHelpers.EnsureSufficientExecutionStack()
            let callers, named =
                given.Named |> List.partition (fun (name, _) -> macro.UsesCaller && name = "caller")
            let arguments = Arguments($"macro {macro.MacroName}", names, { given with Named = named })
            let inner = JinjaScope scope

            if macro.UsesCaller && not (List.contains "caller" names) then
                let caller = List.tryHead callers |> Option.map snd
                inner.Set("caller", caller |> Option.defaultValue (Value.Undefined "there is no caller"))

            for name, fallback in macro.Parameters do
                let value =
                    match arguments.TryFind name, fallback with
                    | Some value, _ -> value
                    | None, Some fallback -> this.Evaluate(inner, fallback)
                    | None, None -> Value.Undefined $"parameter '{name}' was not given"

                inner.Set(name, value)

            this.Captured(inner, macro.MacroBody)

        Value.Function { Name = macro.MacroName; Invoke = invoke }

    member private this.Loop(scope: JinjaScope, out: MarkedBuilder, depth: int, loop: ForLoop) : JinjaFlow =
        let over = this.Evaluate(scope, loop.Over)
        at <- loop.ForPlace

        let keeps (item: Value) =
            match loop.Where with
            | None -> true
            | Some condition ->
                let inner = JinjaScope scope
                this.Assign(inner, loop.Target, item)
                Value.isTrue (this.Evaluate(inner, condition))

        let items = Value.items work over |> Array.filter keeps
        let state = { Items = items; Index = 0; Depth = depth; Seen = None }
        let mutable isOpen = true
        // jinja2 takes the else where no round came to its end, be it by break or continue.
        let mutable isDone = false

        while isOpen && state.Index < items.Length do
            work.Spend 1
            at <- loop.ForPlace
            let inner = JinjaScope scope
            inner.Set("loop", Value.Loop state)
            this.Assign(inner, loop.Target, items[state.Index])
            let flow = this.Run(inner, out, depth + 1, loop.Body)
            isOpen <- flow <> JinjaFlow.Break
            isDone <- isDone || flow = JinjaFlow.Next
            state.Index <- state.Index + 1

        if not isDone then
            this.Run(JinjaScope scope, out, depth, loop.Otherwise)
        else
            JinjaFlow.Next

    member private this.Statement(scope: JinjaScope, out: MarkedBuilder, depth: int, statement: Statement) =
        match statement with
        | Statement.Write text ->
            out.Append(text, false)
            JinjaFlow.Next
        | Statement.Print value ->
            let text = JinjaPrint.text work (this.Evaluate(scope, value))
            out.Append text
            work.Made text |> ignore
            JinjaFlow.Next
        | Statement.If(branches, otherwise) ->
            let taken =
                branches
                |> List.tryFind (fun (condition, _) -> Value.isTrue (this.Evaluate(scope, condition)))

            match taken with
            | Some(_, body) -> this.Run(scope, out, depth, body)
            | None -> this.Run(scope, out, depth, otherwise)
        | Statement.For loop -> this.Loop(scope, out, depth, loop)
        | Statement.Assign(target, value) ->
            this.Assign(scope, target, this.Evaluate(scope, value))
            JinjaFlow.Next
        | Statement.Capture(target, filters, body) ->
            this.Assign(scope, target, this.CapturedThrough(scope, filters, body))
            JinjaFlow.Next
        | Statement.Filtered(filters, body) ->
            out.Append(JinjaPrint.text work (this.CapturedThrough(scope, filters, body)))
            JinjaFlow.Next
        | Statement.Macro macro ->
            scope.Set(macro.MacroName, this.Macro(scope, macro))
            JinjaFlow.Next
        | Statement.CallBlock(caller, called) ->
            match called.Form with
            | ExpressionForm.Call(macro, arguments) ->
                let macro = this.Evaluate(scope, macro)
                let given = this.Given(scope, arguments)
                let own = "caller", this.Macro(scope, caller)
                at <- called.At
                let made = this.Call(macro, { given with Named = given.Named @ [ own ] })
                out.Append(JinjaPrint.text work made)
            | _ -> ()

            JinjaFlow.Next
        | Statement.With(assignments, body) ->
            let values = assignments |> List.map (fun (target, value) -> target, this.Evaluate(scope, value))

            let inner = JinjaScope scope

            for target, value in values do
                this.Assign(inner, target, value)

            this.Run(inner, out, depth, body)
        | Statement.Generation body ->
            this.Run(JinjaScope scope, out, depth, body) |> ignore
            JinjaFlow.Next
        | Statement.Break _ -> JinjaFlow.Break
        | Statement.Continue _ -> JinjaFlow.Continue

    /// Writes what statements write; anything but `Next` ended them early. `depth`: the loops around them.
    member this.Run(scope: JinjaScope, out: MarkedBuilder, depth: int, body: Statement list) : JinjaFlow =
        RuntimeHelpers.EnsureSufficientExecutionStack()

        let mutable rest = body
        let mutable flow = JinjaFlow.Next

        while flow = JinjaFlow.Next && not rest.IsEmpty do
            work.Spend 1
            flow <- this.Statement(scope, out, depth, rest.Head)
            rest <- rest.Tail

        flow
