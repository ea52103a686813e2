namespace LayerSkip

/// Where something stands in a template, from 1.
[<Struct>]
type internal JinjaPlace = { Line: int; Column: int }

/// A template that is none, or one that asks for what it cannot have: where, and what is wrong.
exception internal JinjaFault of place: JinjaPlace * what: string

/// An expression and where it stands.
[<NoEquality; NoComparison>]
type internal Expression = { At: JinjaPlace; Form: ExpressionForm }

and [<NoEquality; NoComparison; RequireQualifiedAccess>] internal ExpressionForm =
    | Constant of Value
    | Variable of name: string
    | List of Expression list
    | Tuple of Expression list
    | Dict of (Expression * Expression) list
    /// x.name
    | Attribute of Expression * name: string
    /// x[key]
    | Item of Expression * key: Expression
    /// x[start:stop:step]
    | Slice of Expression * start: Expression option * stop: Expression option * step: Expression option
    | Call of Expression * CallArguments
    | Filter of Expression * FilterCall
    | Test of Expression * FilterCall
    | Negate of Expression
    | Plus of Expression
    | Not of Expression
    | And of Expression * Expression
    | Or of Expression * Expression
    | Binary of Operator * Expression * Expression
    /// a ~ b ~ c
    | Join of Expression list
    /// a < b <= c
    | Compare of Expression * (Comparison * Expression) list
    /// yes if condition else no
    | Choice of condition: Expression * yes: Expression * no: Expression option

and [<NoEquality; NoComparison>] internal CallArguments = {
    Positional: Expression list
    Named: (string * Expression) list
    /// *values
    Spread: Expression option
    /// **values
    NamedSpread: Expression option
}

/// A filter or a test by its name.
and [<NoEquality; NoComparison>] internal FilterCall = {
    Name: string
    Arguments: CallArguments
    Place: JinjaPlace
}

/// What is assigned to.
[<RequireQualifiedAccess>]
type internal Target =
    | Name of string
    | Tuple of Target list
    /// An attribute of a namespace.
    | Attribute of name: string * attribute: string * at: JinjaPlace

[<NoEquality; NoComparison; RequireQualifiedAccess>]
type internal Statement =
    /// The template's own text.
    | Write of string
    | Print of Expression
    | If of branches: (Expression * Statement list) list * otherwise: Statement list
    | For of ForLoop
    | Assign of Target * Expression
    /// {% set x | filters %}...{% endset %}
    | Capture of Target * FilterCall list * body: Statement list
    | Macro of Macro
    /// {% call(parameters) called(...) %}: a macro is called and may call the body as `caller`.
    | CallBlock of parameters: Macro * called: Expression
    | With of (Target * Expression) list * body: Statement list
    | Filtered of FilterCall list * body: Statement list
    /// What the model itself writes, in templates that say so for training.
    | Generation of body: Statement list
    | Break of JinjaPlace
    | Continue of JinjaPlace

and [<NoEquality; NoComparison>] internal ForLoop = {
    Target: Target
    Over: Expression
    /// Only the items for which it holds.
    Where: Expression option
    Body: Statement list
    /// Where there are no items.
    Otherwise: Statement list
    ForPlace: JinjaPlace
}

and [<NoEquality; NoComparison>] internal Macro = {
    MacroName: string
    Parameters: (string * Expression option) list
    MacroBody: Statement list
    /// It asks for what a call block gives it.
    UsesCaller: bool
}
